"""How a run continues: the one mechanism by which finished work is kept and broken work goes on.

A step says what it depends on and how it is built. Everything else is done here, for every step:
it is skipped when it is up to date, locked while it works, and given a `Workspace` in which it
keeps what it has done so far, should the process be killed.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from configs.artifacts import digest, file_sha256, read_json, write_json
from configs.errors import UserError

log = logging.getLogger("potstill")

HIDDEN = ".potstill"
"""The folder beside an artifact that holds its lock and the workspace of an unfinished build."""

Built = tuple[list[Path], dict[str, Any]]
"""The files that a build wrote, and what else their manifest should say, as JSON values."""


@dataclass(frozen=True)
class Workspace:
    """Where an unfinished step keeps what it has done, for the process that continues it.

    A workspace belongs to one step with one set of inputs. A change of the inputs begins a new
    one, so whatever lies here was made from the same inputs. It is removed when the step is
    finished.
    """

    folder: Path

    def file(self, name: str) -> Path:
        """The path of a file in the workspace. Write it with `whole_file`."""
        return self.folder / name

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` returns, as JSON values; in a process that continues, what it returned then.

        For results that would differ if they were found again, such as measured times.
        """
        path = self.file(f"{name}.json")
        if not path.exists():
            write_json(path, find())
        return read_json(path)


@dataclass(frozen=True)
class Step:
    """One step of a run: what it depends on and how its artifact is made.

    Attributes:
        name: as the user says it ("teacher").
        manifest: the file that is written last.
        inputs: everything that the artifact depends on, as JSON values.
        build: does the work.
    """

    name: str
    manifest: Path
    inputs: dict[str, Any]
    build: Callable[[Workspace], Built]

    @property
    def workspace(self) -> Workspace:
        """Where a build with these inputs keeps what it has done."""
        return Workspace(self._hidden / digest(self.inputs))

    @property
    def _hidden(self) -> Path:
        return self.manifest.parent / HIDDEN / self.manifest.stem

    @property
    def was_begun(self) -> bool:
        """Whether a build with any inputs was begun here and not finished."""
        return self._hidden.is_dir() and any(path.is_dir() for path in self._hidden.iterdir())

    def forget_unfinished(self, *, but: Workspace | None = None) -> None:
        """Remove the workspaces of this step, or all except one."""
        if self._hidden.is_dir():
            for folder in self._hidden.iterdir():
                if folder.is_dir() and (but is None or folder != but.folder):
                    shutil.rmtree(folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while the step works, so that two processes never write one artifact.

        The lock is the operating system's: it goes with the process, however that ends.

        Raises:
            UserError: another process holds it.
        """
        self._hidden.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._hidden / "lock", timeout=0):
                yield
        except Timeout:
            raise UserError(
                f"another process is working on {self.manifest.parent} ({self.name}). Wait for "
                "it, or name another folder (--run for a run, --out for bare files)."
            ) from None


def take_step(step: Step, *, force: bool = False) -> dict[str, Any]:
    """Do a step, unless its artifact is whole and was made from the same inputs.

    Returns:
        The manifest of the artifact.

    Raises:
        UserError: another process is at this step.
    """
    with step.lock():
        current = is_current(step.manifest, step.inputs)
        if current and not force:
            log.info("%s: up to date", step.name)
            manifest = dict(read_json(step.manifest))
        else:
            log.info("%s: working", step.name)
            # A finished step that is redone starts from nothing; a broken one continues.
            step.forget_unfinished(but=None if current else step.workspace)
            step.workspace.folder.mkdir(parents=True, exist_ok=True)
            manifest = _make_artifact(step)
        step.forget_unfinished()
        return manifest


def _make_artifact(step: Step) -> dict[str, Any]:
    """Build an artifact and write its manifest last, atomically."""
    start = time.monotonic()
    paths, facts = step.build(step.workspace)
    outputs = {
        str(path.relative_to(step.manifest.parent)): {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in paths
    }
    manifest = {
        **facts,
        "seconds": round(time.monotonic() - start, 3),
        "inputs_digest": digest(step.inputs),
        "inputs": step.inputs,
        "outputs": outputs,
    }
    write_json(step.manifest, manifest)
    return manifest


def is_current(manifest: Path, inputs: dict[str, Any]) -> bool:
    """Whether the artifact of `manifest` is whole and was made from these inputs."""
    if not manifest.exists():
        return False
    stored = read_json(manifest)
    if stored.get("inputs_digest") != digest(inputs):
        return False
    outputs = stored.get("outputs", {})
    written = manifest.stat().st_mtime_ns
    return all(
        _is_unchanged(manifest.parent / name, facts, written) for name, facts in outputs.items()
    )


def _is_unchanged(path: Path, facts: dict[str, Any], written: int) -> bool:
    """Whether a file is the one that its manifest describes.

    A file that is younger than the manifest may come from a build that was killed before its own
    manifest, so its digest decides. A copied run has files of any age.
    """
    if not path.exists() or path.stat().st_size != facts["bytes"]:
        return False
    return path.stat().st_mtime_ns <= written or file_sha256(path) == facts["sha256"]


def output_sha256(manifest: Path, name: str) -> str:
    """The digest of one file of a finished artifact, as a later step's input."""
    return str(read_json(manifest)["outputs"][name]["sha256"])
