"""A small run with every feature on, and what a fault in the middle of it leaves behind."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.artifacts import whole_file
from faults.harness import ending, finish_times, leftovers, line_times, started, write_photos
from ssh_server import Server, ssh_server

NUM_TRIALS = 4
BASE = """
data: {{path: photos, unlabelled: unlabelled}}
teacher: {{backbone: {{name: tiny, width: 16}}, image_size: 32, epochs: 6}}
soft_labels: {{num_views: 8}}
"""
RUN_CONFIG = (
    BASE
    + """
student: {{backbone: {{name: tiny, width: 8}}, image_size: 32, epochs: 6, seeds: 2}}
compress:
  methods:
    - {{name: channels, keep: 0.7, multiple_of: 8, epochs: 4}}
    - {{name: magnitude, epochs: 4}}
  recipes: [tflite.float32, tflite.int8, onnx.float32, onnx.int8]
evaluate:
  num_runs: 20
  corruptions: [noise]
  num_corrupted: 20
  devices: [local, {{name: ssh, host: board, python: {python}, config: {ssh_config}}}]
"""
)
TUNE_CONFIG = (
    BASE
    + """
student: {{backbone: {{name: tiny, width: 8}}, image_size: 32, epochs: 6, control: false}}
compress: {{recipes: [tflite.float32, tflite.dynamic]}}
evaluate: {{num_runs: 30, num_warmup: 3}}
tune:
  trials: {num_trials}
  space:
    student.backbone.width: [4, 8]
    student.soft_weight: {{low: 0.3, high: 1.0}}
    student.loss.temperature: {{low: 1.0, high: 8.0, log: true}}
"""
)
COMMANDS = ("distill run run.yaml --run {folder}", "distill tune tune.yaml --run {folder}")
BEGINS = re.compile(r"(?P<step>.+): working|trial \d+ \((?P<trial>\d+ of \d+).*")
KINDS = {
    "accuracy": r"(predictions|corrupted photos) of .*",
    "data": r"data",
    "teacher": r"teacher",
    "label": r"soft labels",
    "student": r"(student|control)(-\d+)?|temperature of .*|student or control",
    "prune": r"channels(-magnitude)?",
    "export": r".*float32.*",
    "quantize": r".*int8.*",
    "latency": r"latency on .*",
    "report": r"report",
    "tune": r"\d+ of \d+",
}
"""Kinds of work, and the names of their steps. The report comes after all steps of a run."""
LAST_STEP = "latency on ssh:board"
LAST_MANIFEST = "results/latency-*board*.json"


@dataclass(frozen=True)
class Stretch:
    """A stretch of the work: one step, one trial of the search, or the report.

    Attributes:
        command: the index in COMMANDS of the command that does it.
        step: its name in the log.
        seconds: how long it takes undisturbed.
    """

    command: int
    step: str
    seconds: float

    @property
    def kind(self) -> str:
        return kind_of(self.step)


@dataclass(frozen=True)
class Target:
    """A moment for a fault: so many seconds after a stretch begins."""

    stretch: Stretch
    seconds: float


def kind_of(step: str) -> str:
    """The kind of a step."""
    return next((kind for kind, names in KINDS.items() if re.fullmatch(names, step)), "other")


@contextmanager
def prepared(out: Path) -> Iterator[Server]:
    """`out` with photos and configs, and the board that the run is measured on."""
    if not (out / "photos").exists():
        shutil.rmtree(out / "unfinished", ignore_errors=True)
        write_photos(out / "unfinished")
        (out / "unfinished").rename(out / "photos")
    (out / "unlabelled").mkdir(exist_ok=True)
    rng = np.random.default_rng(2)
    for number in range(60):
        pixels = rng.integers(0, 256, 3) + rng.normal(0, 60, (32, 32, 3))
        path = out / "unlabelled" / f"{number}.png"
        if not path.exists():  # a photo that is written again is scanned again
            Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(path)
    (out / "ssh").mkdir(exist_ok=True)
    with ssh_server(out / "ssh") as server:
        values = {
            "python": sys.executable, "ssh_config": server.config, "num_trials": NUM_TRIALS
        }  # fmt: skip
        (out / "run.yaml").write_text(RUN_CONFIG.format(**values))
        (out / "tune.yaml").write_text(TUNE_CONFIG.format(**values))
        yield server


def steps_begun(lines: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The names of the steps and trials that begin in the lines of a log, and when."""
    begun: list[tuple[str, float]] = []
    in_trial = False
    for line, seconds in lines:
        match = BEGINS.fullmatch(line)
        if match and match["trial"]:
            in_trial = True
            begun.append((match["trial"], seconds))
        elif match and not in_trial:
            begun.append((match["step"], seconds))
    return begun


def undisturbed(out: Path, name: str) -> list[Stretch]:
    """Make the run `name` without a fault, unless it is there; returns its stretches."""
    folder, record = out / name, out / f"{name}.json"
    if not record.exists():
        shutil.rmtree(folder, ignore_errors=True)
        stretches: list[Stretch] = []
        for command, words in enumerate(COMMANDS):
            with started(words.format(folder=name), cwd=out) as (process, errors):
                begun = steps_begun(line_times(process, errors))
                ended = time.monotonic()
                assert process.returncode == 0, errors.read_text()
            if command == 0:
                (manifest,) = folder.glob(LAST_MANIFEST)
                begun.append(("report", _seconds_of(manifest)))
                ended = _seconds_of(folder / "report.json")
            ends = [seconds for _, seconds in begun[1:]] + [ended]
            for (step, seconds), end in zip(begun, ends, strict=True):
                stretches.append(Stretch(command, step, end - seconds))
        with whole_file(record) as unfinished:
            unfinished.write_text(json.dumps([asdict(stretch) for stretch in stretches]))
    return [Stretch(**row) for row in json.loads(record.read_text())]


def _seconds_of(file: Path) -> float:
    """When a file was written, as `time.monotonic` counts."""
    return time.monotonic() - (time.time() - file.stat().st_mtime)


def targets(stretches: list[Stretch], *, kinds: list[str], seed: int) -> list[Target]:
    """A random moment in each of these kinds of work, in the order of the work.

    Args:
        kinds: a kind may be there several times.
    """
    rng = random.Random(seed)
    chosen: list[tuple[int, float]] = []
    for kind in kinds:
        own = [i for i, stretch in enumerate(stretches) if stretch.kind == kind]
        index = rng.choices(own, [stretches[i].seconds for i in own])[0]
        chosen.append((index, rng.uniform(0, stretches[index].seconds)))
    return [Target(stretches[index], seconds) for index, seconds in sorted(chosen)]


def all_kinds(stretches: list[Stretch]) -> list[str]:
    """The kinds of work in their order."""
    return list(dict.fromkeys(stretch.kind for stretch in stretches))


def has_come(process: subprocess.Popen[bytes], errors: Path, target: Target, folder: Path) -> bool:
    """Wait for the moment of a target, or for the next step if that begins before.

    Returns:
        False if the process ended before.
    """
    is_over = False
    for line, _ in line_times(process, errors):
        if target.stretch.kind == "report":
            if line == f"{LAST_STEP}: up to date":
                break
            if line == f"{LAST_STEP}: working":
                while process.poll() is None and not list(folder.glob(LAST_MANIFEST)):
                    time.sleep(0.01)
                break
        else:
            match = BEGINS.fullmatch(line)
            if match and is_over:
                return True
            if match and target.stretch.step in (match["step"], match["trial"]):
                break
            is_over = is_over or line == f"{target.stretch.step}: up to date"
    num_begun = len(steps_of(errors))
    deadline = time.monotonic() + target.seconds
    while time.monotonic() < deadline and len(steps_of(errors)) == num_begun:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return process.poll() is None


def steps_of(errors: Path) -> list[str]:
    """The names of the steps and trials that have begun."""
    return [
        step for step, _ in steps_begun((line, 0.0) for line in errors.read_text().splitlines())
    ]


def with_fault(
    out: Path,
    folder: Path,
    target: Target,
    fault: Callable[[subprocess.Popen[bytes]], dict[str, Any]],
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Start the command of a target, and let the fault happen at its moment.

    Args:
        fault: gets the process; when it returns, the process has ended.

    Returns:
        What the fault returned, and: the kind of work and the step in which it happened; the exit
        code; whether the moment came; the errors; finished artifacts that were made again.
    """
    finished = finish_times(folder)
    words = COMMANDS[target.stretch.command].format(folder=os.path.relpath(folder, out))
    with started(words, cwd=out, environment=environment) as (process, errors):
        came = has_come(process, errors, target, folder)
        begun = steps_of(errors)
        row = fault(process) if came else {}
        process.wait()
        text = errors.read_text()
    step = begun[-1] if begun else ""
    if target.stretch.kind == "report" or not step:
        step = target.stretch.step
    return row | {
        "kind": kind_of(step),
        "step": step,
        "seconds": round(target.seconds, 2),
        "came": came,
        "code": process.returncode,
        "errors": [line for line in text.splitlines() if line.startswith("error:")],
        "traceback": "Traceback" in text or "Exception ignored" in text,
        "redone": redone(finished, folder),
    }


def redone(finished: dict[str, int], folder: Path) -> list[str]:
    """Finished artifacts that were made again, or are gone."""
    now = finish_times(folder)
    return [name for name, moment in finished.items() if now.get(name) != moment]


def finish(out: Path, folder: Path, *, command: int) -> list[str]:
    """Run a command to its end; returns the finished artifacts that were made again."""
    finished = finish_times(folder)
    words = COMMANDS[command].format(folder=os.path.relpath(folder, out))
    with started(words, cwd=out) as (process, errors):
        process.wait()
        assert process.returncode == 0, errors.read_text()
    return redone(finished, folder)


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """What differs between the end of a run and that of the undisturbed one."""
    now, before = ending(folder), ending(undisturbed)
    lines = [f"{name} is not there" for name in before.keys() - now.keys()]
    lines += [f"{name} is too much" for name in now.keys() - before.keys()]
    lines += [f"{name} differs" for name in now.keys() & before.keys() if now[name] != before[name]]
    return sorted([*lines, *(f"{path} was left" for path in leftovers(folder))])


class Results:
    """The rows of a file with one JSON object in each line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self.rows.append(row)
        with open(self._path, "a") as file:
            print(json.dumps(row), file=file, flush=True)
