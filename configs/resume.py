"""The one mechanism by which a run continues: what is up to date, and the locks."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from configs.artifacts import digest, file_sha256, read_json, write_json
from configs.errors import UserError
from configs.run_dir import RunDir

log = logging.getLogger("potstill")


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
