"""Kill a command again and again, and compare the result with that of an undisturbed command.

A test copies a folder in which everything is finished. It removes the files of one command, then
starts and kills that command until it is finished. To test one more command, add it to `COMMANDS`.
"""

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import onnx
from PIL import Image

from configs.resume import HIDDEN

TINY_PROGRAM = Path(__file__).with_name("tiny_program.py")
OF_TRIALS = {"trial", "file", "p50_ms", "bytes", "exceeds", "chosen"}
"""What differs in the table of a search. A trial that was killed gets another number, and of files
that are equally right the faster one is named."""
MAX_COPIES = 50
"""More copies are not tried for ten kills of a command."""

CONFIG = """
data: {path: photos}
teacher: {backbone: {name: tiny, width: 16}, image_size: 32, epochs: 6}
soft_labels: {num_views: 8}
student: {backbone: {name: tiny, width: 8}, image_size: 32, epochs: 6}
compress:
  methods: [{name: channels, keep: 0.7, multiple_of: 8, epochs: 4}, {name: magnitude, epochs: 4}]
  recipes: [tflite.float32, tflite.int8, onnx.float32, onnx.int8]
evaluate: {num_runs: 100, corruptions: [noise], num_corrupted: 20}
"""
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


@dataclass(frozen=True)
class Command:
    """A command and the files that it writes.

    Attributes:
        words: program and arguments; {folder} is the folder that it writes into.
        writes: patterns of its files, relative to that folder.
        finished: which of the finished folders it belongs to, `run` or `bare`.
    """

    words: str
    writes: tuple[str, ...]
    finished: str = "run"


COMMANDS = {
    "data": Command("distill data config.yaml --run {folder}", ("data",)),
    "teacher": Command("distill teacher config.yaml --run {folder}", ("teacher",)),
    "label": Command("distill label config.yaml --run {folder}", ("soft_labels",)),
    "student": Command("distill student config.yaml --run {folder}", ("student", "control")),
    "prune with Keras": Command("compress prune {folder}", ("methods/*",)),
    "prune with tfmot": Command("compress prune {folder}", ("methods/channels-magnitude",)),
    "export": Command("compress export {folder}", ("files/*float32*",)),
    "quantize": Command("compress quantize {folder}", ("files/*int8*",)),
    "accuracy": Command("evaluate accuracy {folder}", ("results/predictions", "results/corrupted")),
    "latency": Command("evaluate latency {folder}", ("results/latency-*",)),
    "report": Command("evaluate report {folder}", ("report.*", "model_card.md")),
    "bare model": Command(
        "compress quantize run/student/model.keras --data photos --recipe float32 "
        "--recipe int8 --out {folder}",
        ("*",),
        finished="bare",
    ),
}


@dataclass(frozen=True)
class Duration:
    """How long a command works.

    Attributes:
        first_line: the end of the line on standard error with which its work begins. The kills come
            after it, not during the import of TensorFlow.
        seconds: from that line to the end.
    """

    first_line: str
    seconds: float


def write_photos(folder: Path, num_per_class: int = 100) -> None:
    """Three classes of coloured photos."""
    rng = np.random.default_rng(1)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(num_per_class):
            pixels = np.array(colour) + rng.normal(0, 60, (32, 32, 3))
            photo = Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))
            photo.save(folder / label / f"{number}.png")


@contextmanager
def started(
    words: str, *, cwd: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """One of the three programs in a process of its own, and the file with its standard error."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "errors", "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(TINY_PROGRAM), *words.split()],
            cwd=cwd,
            env={**os.environ, "TF_DETERMINISTIC_OPS": "1", **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            yield process, Path(errors.name)
        finally:
            process.kill()
            process.wait()


def line_times(process: subprocess.Popen[bytes], errors: Path) -> Iterator[tuple[str, float]]:
    """The lines of the process and when each was seen, until it ends."""
    num_lines = 0
    while True:
        has_ended = process.poll() is not None
        lines = errors.read_text().splitlines()
        for line in lines[num_lines:]:
            yield line, time.monotonic()
        num_lines = len(lines)
        if has_ended:
            return
        time.sleep(0.01)


def run_to_end(words: str, *, cwd: Path) -> Duration:
    """Run a command undisturbed."""
    begins: dict[str, float] = {}
    with started(words, cwd=cwd) as (process, errors):
        for line, seconds in line_times(process, errors):
            begins.setdefault(line[line.rfind(":") :], seconds)
        assert process.returncode == 0, errors.read_text()
    # `evaluate report` has no step of its own; it begins by checking the others.
    first_line = ": working" if ": working" in begins else ": up to date"
    return Duration(first_line, time.monotonic() - begins[first_line])


def run_and_kill(
    words: str, *, cwd: Path, first_line: str, seconds: float, number: int = signal.SIGKILL
) -> float | None:
    """Start a command and send it a signal so many seconds after this line.

    Returns:
        How many seconds it took to end; None if it had ended before.
    """
    with started(words, cwd=cwd) as (process, errors):
        for line, _ in line_times(process, errors):
            if line.endswith(first_line):
                break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            start = time.monotonic()
            process.send_signal(number)
            process.wait(60)
            text = errors.read_text()
            assert "Traceback" not in text, text
            return time.monotonic() - start
        assert process.returncode == 0, errors.read_text()
        return None


def remove_written(command: Command, folder: Path) -> None:
    """Remove what the command writes, so that only this command has work to do."""
    for pattern in command.writes:
        for path in folder.glob(pattern):
            if path.name != HIDDEN:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def finish_times(folder: Path) -> dict[str, int]:
    """When each finished artifact was finished, by its manifest."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("[!.]*.json")  # an unfinished manifest may be left by a kill
        if HIDDEN not in path.parts and "inputs_digest" in json.loads(path.read_text())
    }


def leftovers(folder: Path) -> list[Path]:
    """Hidden files and folders, except locks."""
    hidden = [path for path in folder.rglob("*") if path.name.startswith(".")]
    inside = [path for path in hidden if path.name == HIDDEN for path in path.rglob("*/*")]
    unfinished = [path for path in hidden if path.name != HIDDEN]
    return unfinished + [path for path in inside if path.name != "lock"]


def ending(folder: Path) -> dict[str, object]:
    """What a finished folder holds, without what differs from run to run, by file."""
    contents: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        is_content = path.name != "log.jsonl" and path.suffix != ".lock"
        if path.is_file() and HIDDEN not in path.parts and is_content:
            read = CONTENTS.get(path.suffix, lambda path: "there")
            name = _name(path, folder)
            contents[f"{name}, once more" if name in contents else name] = read(path)
    return contents


def _name(path: Path, folder: Path) -> str:
    """The name of soft labels is a digest of the teacher's file, which holds its date."""
    name = "labels" + path.suffix if path.parent.name == "soft_labels" else path.name
    return path.relative_to(folder).with_name(name).as_posix()


def _digest(parts: Iterator[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def _bytes(path: Path) -> str:
    return _digest(iter([path.read_bytes()]))


def _keras_weights(path: Path) -> str:
    """The rest of a .keras file holds its date."""
    arrays: list[bytes] = []

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays.append(name.encode() + item[()].tobytes())

    with (
        zipfile.ZipFile(path) as archive,
        archive.open("model.weights.h5") as weights,
        h5py.File(weights) as file,
    ):
        file.visititems(add)
    return _digest(iter(arrays))


def _onnx_weights(path: Path) -> str:
    """The names in an ONNX file differ from process to process."""
    graph = onnx.load(path).graph
    arrays = sorted(onnx.numpy_helper.to_array(array).tobytes() for array in graph.initializer)
    return _digest(iter([*arrays, *(node.op_type.encode() for node in graph.node)]))


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, without what was measured or chosen by it."""
    left_out = {"seconds"} | (OF_TRIALS if path.name == "trials.csv" else set())
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in left_out} for row in csv.DictReader(file)]


def _json(path: Path) -> object:
    """How many times there are of each file, or the scores of a report; else only that it is."""
    value = json.loads(path.read_text())
    if path.name.startswith("latency-"):
        return {name: len(row["times_ms"]) for name, row in value["latency"].items()}
    if path.name == "report.json":
        return [[row["name"], row["accuracy"]] for row in value["models"] + value["files"]]
    return "there"


CONTENTS: dict[str, Callable[[Path], object]] = {
    ".keras": _keras_weights,
    ".onnx": _onnx_weights,
    ".csv": _rows,
    ".json": _json,
    ".npy": _bytes,
    ".npz": _bytes,
    ".tflite": _bytes,
}


def kill_moments(duration: Duration, number: int, seed: int) -> list[float]:
    """Moments within the work of a command, one in each of `number` equal parts, in any order."""
    rng = random.Random(seed)
    moments = [duration.seconds * (i + rng.random()) / number for i in range(number)]
    rng.shuffle(moments)
    return moments
