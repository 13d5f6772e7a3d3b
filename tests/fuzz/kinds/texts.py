"""Configs, and whole command lines."""

import contextlib
import io
import logging
import math
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from fuzz.harness import LAST_RESORT, Kind
from fuzz.kinds.runtime_files import write_onnx, write_tflite
from fuzz.mutations import WORDS, mutated_bytes, mutated_json, mutated_text
from support import ROOT, save_photo

HOSTILE_LINES = (
    "x: !!python/object/apply:os.system ['touch canary']",
    "data: !!python/object/new:pathlib.Path [canary]",
    "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
    "c: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c, *c, *c]",
    "student: &s {loss: *s}",
    "trackers: " + "[" * 3000 + "]" * 3000,
    "<<: {seed: 3}",
    "seed: 1\nseed: 2",
    "seed: 99999999999999999999999999999999999999",
    "student: {epochs: .inf}",
    "data: {path: !!binary aGVsbG8=}",
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "1: 2",
    "null: null",
    "--- \nb: 1\n--- \nc: 2",
    "%YAML 9.9",
    "\ta: b",
    "a: 2026-11-26",
    "a: 0x_",
    "a: 1_",
    "a: 12:30:45",
)
TEACHER_FILES = """
data: {path: photos}
teacher: {files: [{path: t.keras, image_size: 32, pixels: torch, answers: logits}]}
soft_labels: {num_views: 2, top_k: 3}
student: {backbone: {name: efficientnet_lite0, dropout: 0.2}, image_size: 32, epochs: 2,
  loss: {name: kd, temperature: 2.0}, optimizer: {name: adamw, rate: 1e-3}}
compress: {methods: [{name: channels, keep: 0.7}], budget: {max_drop: 0.01, max_bytes: 100000},
  recipes: [{name: tflite.int8, num_images: 10}], least_runtime: {tflite: '2.14'}}
evaluate: {devices: [local, {name: ssh, host: pi}], corruptions: [noise]}
trackers: [{name: tensorboard}]
"""


def _write_configs(seeds: Path) -> None:
    from commands.options import _registries
    from configs.loading.experiment import load_experiment, to_yaml

    for path in sorted((ROOT / "configs").glob("*.yaml")):
        shutil.copy(path, seeds / path.name)
    whole = load_experiment(ROOT / "configs" / "smoke.yaml", _registries())
    (seeds / "whole.yaml").write_text(to_yaml(whole))
    (seeds / "files.yaml").write_text(TEACHER_FILES)


def _make_config(rng: random.Random, seeds: Path, folder: Path) -> tuple[Path, list[str]]:
    from configs.loading.yaml_text import dump_yaml, parse_yaml

    content = rng.choice(sorted(seeds.iterdir())).read_bytes()
    change = rng.random()
    if change < 0.4:
        content = _encoded(mutated_text(rng, content.decode(), HOSTILE_LINES), rng)
    elif change < 0.75:
        values = mutated_json(rng, parse_yaml(content.decode()))
        content = dump_yaml(values).encode("utf-8", "surrogateescape")
    elif change < 0.9:
        content = mutated_bytes(rng, content)
    path = folder / rng.choice(("config.yaml", "config.yml", "UPPER.YAML", "naïve name.yaml"))
    path.write_bytes(content)
    overrides = [_override(rng) for _ in range(rng.choice((0, 0, 1, 3)))]
    return path, overrides


def _encoded(text: str, rng: random.Random) -> bytes:
    coding = rng.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig", "latin-1"))
    return text.encode(coding, "backslashreplace" if coding == "latin-1" else "surrogatepass")


KEYS = (
    "seed", "data.path", "data.source", "data.validation", "data.test", "data.columns.photo",
    "data.group", "data.unlabelled", "data.labels_per_class", "teacher.backbone",
    "teacher.backbone.name", "teacher.files", "teacher.epochs", "teacher.image_size",
    "soft_labels.num_views", "soft_labels.top_k", "student.backbone.width", "student.loss.name",
    "student.loss.temperature", "student.optimizer", "student.seeds", "student.views",
    "compress.methods", "compress.recipes", "compress.budget.max_drop", "evaluate.devices",
    "evaluate.num_runs", "trackers", "tune.space", "tune", "", ".", "a..b", "student",
)  # fmt: skip
VALUES = (
    "1", "-1", "1e309", ".nan", "[]", "{}", "null", "{name: kd}", "[a, {b: c}]", "{name: [1]}",
    "digits", "hf:x", "tfds:", "[{name: magnitude}, {name: magnitude}]", "{name: null}", "&a [*a]",
    "!!python/name:os.system", "{{}: 1}", "[1", "'", "2026-01-01", "yes", "0x10", "[local, local]",
)  # fmt: skip


def _override(rng: random.Random) -> str:
    return f"{rng.choice(KEYS)}{rng.choice(('=', '=', '=', '', '=='))}" + rng.choice(
        (*VALUES, *WORDS)
    )


def _check_config(given: tuple[Path, list[str]]) -> None:
    from commands.options import _registries
    from configs.loading.targets import open_run

    path, overrides = given
    try:
        run = path.parent / "run"
        _, first = open_run(str(path), run=run, overrides=overrides, registries=_registries)
        # What was accepted and written out is read back as the same.
        try:
            _, again = open_run(str(run), run=None, overrides=[], registries=_registries)
        except Exception as error:
            raise AssertionError(f"its own experiment.yaml is refused: {error}") from error
        if _comparable(first) != _comparable(again):
            raise AssertionError("its own experiment.yaml is read as another experiment")
    finally:
        for handler in logging.getLogger("potstill").handlers[:]:
            logging.getLogger("potstill").removeHandler(handler)
            handler.close()


def _comparable(experiment: Any) -> str:
    return str(experiment.model_dump(mode="json"))


def _config_words(given: tuple[Path, list[str]]) -> list[str]:
    path, overrides = given
    empty = path.parent / "empty"
    empty.mkdir(exist_ok=True)
    words = ["distill", "data", str(path), "--run", str(path.parent / "run")]
    for override in [*overrides, "data.source=folder", f"data.path={empty}"]:
        words += ["--set", override]
    return [word for word in words if "\0" not in word and _is_an_argument(word)]


def _is_an_argument(word: str) -> bool:
    try:
        return "\0" not in word and bool(os.fsencode(word) is not None)
    except UnicodeEncodeError:
        return False


CONFIGS = Kind(
    imports=("configs.loading.targets", "compress.config_choices"),
    write_seeds=_write_configs,
    make=_make_config,
    check=_check_config,
    words=_config_words,
)


def _write_files(seeds: Path) -> None:
    from configs.loading.yaml_text import dump_yaml, read_yaml

    values = read_yaml(ROOT / "configs" / "smoke.yaml")
    values["data"] = {"source": "folder", "path": "empty"}
    (seeds / "config.yaml").write_text(dump_yaml(values))
    (seeds / "empty").mkdir()
    (seeds / "labels.txt").write_text("a\nb\nc\nd\n")
    (seeds / "notes.keras").write_text("no model")
    for label, first in (("cat", 0), ("dog", 100)):
        for number in range(12):
            save_photo(seeds / "photos" / label / f"{number}.png", seed=first + number)
    write_onnx(seeds / "tiny.onnx")
    write_tflite(seeds / "tiny.tflite")


FILES = (
    "config.yaml", "empty", "labels.txt", "notes.keras", "photos", "photos/cat/1.png", "tiny.onnx",
    "tiny.tflite", "missing", "missing.tflite", "missing.onnx", "missing.keras", "missing/run",
    "photos.zip", "hf:missing", "tfds:missing", ".",
)  # fmt: skip
PLACE = ["--set", "data.source=folder", "--set", "data.path=empty"]
"""What makes every step of a run end at once: there are no photos."""
NEVER = {"--help", "--install-completion", "--show-completion", "--debug", "--single-stream"}
"""They print, install, or work for a minute."""
SLOW = {"serve", "latency", "runtimes", "devices"}
"""Commands that go on for long with a file that is right."""


RIGHT = (
    "distill data config.yaml --run run --force data",
    "distill run config.yaml --run run --set seed=2 --force teacher",
    "distill label config.yaml --shard 1/2",
    "distill advise config.yaml --backbone efficientnet_b0",
    "distill tune config.yaml --set tune.num_trials=2",
    "compress prune config.yaml --set compress.methods=[magnitude]",
    "compress quantize config.yaml --force quantize --json",
    "compress quantize notes.keras --data photos --recipe int8:num_images=2 --out out",
    "compress quantize notes.keras --data photos --max-drop 0.01 --max-bytes 9 --qat-epochs 1",
    "compress quantize tiny.onnx --recipe int8 --pixels torch --least-runtime tflite=2.14",
    "compress bundle missing/run --file int8 --out b.zip --no-photos",
    "evaluate accuracy tiny.tflite --data photos --num-threads 1 --labels labels.txt",
    "evaluate accuracy config.yaml --set evaluate.num_runs=3 --run run",
    "evaluate predict tiny.tflite photos/cat/1.png --mean 1,2,3 --std 4,5,6 --channels bgr",
    "evaluate predict tiny.onnx photos/cat/1.png photos/dog/1.png --fit pad --interpolation area",
    "evaluate predict tiny.onnx photos/cat/1.png --answers logits --output-layer answers --json",
    "evaluate predict tiny.tflite photos/cat/1.png --layout nhwc --labels labels.txt --quiet",
    "evaluate latency config.yaml --device local --verify 3 --run run",
    "evaluate latency missing.tflite --num-runs 3 --num-threads 1 --profile",
    "evaluate devices config.yaml --device local --json",
    "evaluate compare run missing/run --any-state",
    "evaluate gate run --min-top1 0.9 --max-drop 0.01 --max-p90-ms 3 --max-bytes 1000",
    "evaluate report config.yaml --run run",
    "evaluate serve missing.tflite --port 0 --host 127.0.0.1 --workers 2",
)
"""Whole command lines, of which the mutated ones are a word away."""


def _make_command(rng: random.Random, seeds: Path, folder: Path) -> list[str]:
    for path in seeds.iterdir():
        (folder / path.name).symlink_to(path)
    program, name, *words = rng.choice(RIGHT).split()
    files = [f for f in FILES if name not in SLOW or not f.startswith("tiny")]
    values = (*files, *VALUES, *_own_words(rng))
    if rng.random() < 0.7:
        for _ in range(rng.choice((1, 1, 2))):
            _change_words(rng, words, values)
    else:
        program = rng.choice(("distill", "compress", "evaluate"))
        name = rng.choice(sorted(_commands(program)))
        values = (*values, *(o for names in _commands(program)[name] for o in names))
        words = [rng.choice(values) for _ in range(rng.choice((0, 1, 2, 4)))]
        if name in SLOW:
            words = [word for word in words if not word.startswith("tiny")]
    words = [word for word in words if word not in NEVER]
    if name in SLOW:  # the folder itself holds files that are right
        words = [word for word in words if word != "."]
    if program == "distill" or "config.yaml" in words or "--set" in words:
        words += PLACE if name not in ("backbones", "schema", "predict", "bundle") else []
    name = rng.choice(WORDS) if rng.random() < 0.03 else name
    return [program, *filter(_is_an_argument, [name, *words])]


def _change_words(rng: random.Random, words: list[str], values: tuple[str, ...]) -> None:
    at, change = rng.randrange(len(words)), rng.randrange(8)
    if change < 5:
        words[at] = rng.choice(values)
    elif change == 5:
        words.insert(at, rng.choice(values))
    elif change == 6:
        words[at] = words[at][:-1] + rng.choice(("", "x", "="))
    elif len(words) > 1:
        del words[at]


def _own_words(rng: random.Random) -> list[str]:
    number = rng.choice((0, -1, 1, 0.5, 2**31, 2**64, math.nan, math.inf, -5e-324))
    return [*(word for word in WORDS if "escaped" not in word), str(number), f"{number},1,2"]


def _commands(program: str) -> dict[str, list[list[str]]]:
    """The commands of a program, and the names of their options."""
    import typer

    import cli  # noqa: F401 - it loads the programs
    from commands import compress, distill, evaluate

    app = {"distill": distill, "compress": compress, "evaluate": evaluate}[program].app
    group: Any = typer.main.get_command(app)
    return {
        name: [list(p.opts) for p in command.params if p.param_type_name == "option"]
        for name, command in group.commands.items()
        if name != "runtimes"
    }


def _check_command(words: list[str]) -> None:
    import cli

    program, *arguments = words
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [program, *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            getattr(cli, program)()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.argv = before
        for handler in logging.getLogger("potstill").handlers[:]:
            logging.getLogger("potstill").removeHandler(handler)
            handler.close()
    # Without a command, a program prints its help.
    check_ending(code, err.getvalue() if arguments else out.getvalue())
    if code:
        said = err.getvalue()
        raise Refused(said[max(said.find("error: "), said.find("╭─ Error"), 0) :])


class Refused(Exception):
    """The command ended with a sentence, and an exit code that says so."""


def check_ending(code: int, err: str) -> None:
    """Raise AssertionError unless a command ended as a command may end."""
    if code not in (0, 1, 2):
        raise AssertionError(f"exit code {code}: {err[-1500:]}")
    if "Traceback" in err or LAST_RESORT in err or (code and not err.strip()):
        raise AssertionError(f"exit code {code}, unclear: {err[-1500:]}")


COMMANDS = Kind(
    imports=("tensorflow", "keras", "compress.standalone", "compress.bare_files"),
    write_seeds=_write_files,
    make=_make_command,
    check=_check_command,
    words=lambda words: words,
    refusals=(Refused,),
)
