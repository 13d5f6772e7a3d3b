"""Where each artifact of a run lives, and what makes it whole: digests, atomic writes, locks."""

import glob
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from configs.errors import UserError

log = logging.getLogger("potstill")


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that name a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; renamed to it when the block ends well, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a killed process left; none that lives writes this file, for steps are locked.
    for left in path.parent.glob(f".unfinished-*-{glob.escape(path.name)}"):
        left.unlink(missing_ok=True)
    # The ending stays: Keras and others choose the format by it.
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one of the run's own JSON files.

    Raises:
        UserError: the file is missing, or something else than a whole JSON document.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing. Run the step that writes it.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Delete it and run again.") from None


@dataclass(frozen=True)
class RunDir:
    """The layout of one run directory."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def experiment(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def photos_manifest(self) -> Path:
        return self.path / "data" / "manifest.csv"

    def model_dir(self, name: str) -> Path:
        """teacher, student and control lie at the top, what a method made under methods/.

        Further seeds are student-2, control-2 and so on.
        """
        top = re.fullmatch(r"teacher|(student|control)(-\d+)?", name)
        return self.path / name if top else self.path / "methods" / name

    def model(self, name: str) -> Path:
        return self.model_dir(name) / "model.keras"

    def soft_labels(self, name: str) -> Path:
        return self.path / "soft_labels" / f"{name}.npy"

    def file(self, name: str) -> Path:
        return self.path / "files" / name

    def predictions(self, name: str) -> Path:
        """Probabilities of one model or file on the validation and test photos."""
        return self.path / "results" / "predictions" / f"{name}.npz"

    def corrupted_answers(self, name: str) -> Path:
        """Answers of one model or file on corrupted test photos."""
        return self.path / "results" / "corrupted" / f"{name}.npy"


@contextmanager
def step_lock(run: RunDir, step: str) -> Iterator[None]:
    """Held while a step works, so that two processes never write one artifact.

    The lock is the operating system's: it goes with the process, however that ends.
    """
    path = run.path / ".locks" / f"{step}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"another process is at the {step} step of {run}. Wait for it, or name another "
            "run directory with --run."
        ) from None


def is_current(manifest: Path, inputs: dict[str, Any]) -> bool:
    """Whether the artifact of `manifest` is whole and was made from these inputs."""
    if not manifest.exists():
        return False
    stored = read_json(manifest)
    if stored.get("inputs_digest") != digest(inputs):
        return False
    outputs = stored.get("outputs", {})
    written = manifest.stat().st_mtime_ns
    return all(_is_of(manifest.parent / name, facts, written) for name, facts in outputs.items())


def _is_of(path: Path, facts: dict[str, Any], written: int) -> bool:
    """Whether a file is the one its manifest tells of.

    One that is younger than the manifest may be of a build that was killed before its own
    manifest: only its digest tells. A copied run has files of any age.
    """
    if not path.exists() or path.stat().st_size != facts["bytes"]:
        return False
    return path.stat().st_mtime_ns <= written or file_sha256(path) == facts["sha256"]


def make_artifact(
    manifest: Path,
    inputs: dict[str, Any],
    build: Callable[[], tuple[list[Path], dict[str, Any]]],
) -> dict[str, Any]:
    """Build an artifact and write its manifest last, atomically.

    Args:
        inputs: all that the artifact depends on, as JSON values.
        build: does the work; returns the files it wrote and what else the manifest should say.

    Returns:
        The manifest.
    """
    start = time.monotonic()
    paths, facts = build()
    outputs = {
        str(path.relative_to(manifest.parent)): {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in paths
    }
    content = {
        **facts,
        "seconds": round(time.monotonic() - start, 3),
        "inputs_digest": digest(inputs),
        "inputs": inputs,
        "outputs": outputs,
    }
    write_json(manifest, content)
    return content


@dataclass(frozen=True)
class Step:
    """One step of a run: what it depends on and how its artifact is made.

    Attributes:
        name: as the user says it ("teacher").
        manifest: the file that is written last.
        inputs: all that the artifact depends on, as JSON values.
        build: does the work; returns the files it wrote and what else the manifest should say.
        clean: removes what only an unfinished build needed.
    """

    name: str
    manifest: Path
    inputs: dict[str, Any]
    build: Callable[[], tuple[list[Path], dict[str, Any]]]
    clean: Callable[[], None] = lambda: None


def take_step(run: RunDir, step: Step, *, force: bool = False) -> dict[str, Any]:
    """Do a step, unless its artifact is whole and of the same inputs.

    Returns:
        The manifest of the artifact.
    """
    with step_lock(run, step.name):
        if not force and is_current(step.manifest, step.inputs):
            log.info("%s: up to date", step.name)
            step.clean()
            return dict(read_json(step.manifest))
        log.info("%s: working", step.name)
        if force and is_current(step.manifest, step.inputs):
            step.clean()  # else the state of the finished build would be taken up
        manifest = make_artifact(step.manifest, step.inputs, step.build)
        step.clean()
        return manifest


def output_sha256(manifest: Path, name: str) -> str:
    """The digest of one file of a finished artifact, as a later step's input."""
    return str(read_json(manifest)["outputs"][name]["sha256"])
