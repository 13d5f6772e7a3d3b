"""Resuming: finished steps are kept, and a killed step continues where it stopped.

This is the only mechanism for it. A step states its inputs and how to build its artifact. For
every step, `take_step` skips the build when the artifact is up to date. Otherwise it takes a lock
and passes a `Workspace`, in which the build stores partial work in case the process is killed.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from configs.artifacts import digest, file_sha256, read_json, write_json
from configs.errors import UserError
from configs.process.stopping import stop_if_requested

log = logging.getLogger("potstill")

HIDDEN = ".potstill"
"""The folder beside an artifact for its lock and for the workspace of an unfinished build."""

Facts = dict[str, Any]
"""Entries of a manifest, as JSON values."""

Built = tuple[list[Path], Facts]
"""The files that a build wrote, and further facts for their manifest."""


@dataclass(frozen=True)
class Workspace:
    """A folder in which an unfinished step stores its work for the process that continues it.

    A workspace belongs to one step with one set of inputs. When the inputs change, the step gets
    an empty workspace, so every file in it was made from the present inputs. The folder is removed
    when the step is finished.
    """

    folder: Path

    def file(self, name: str) -> Path:
        """The path of a file in the workspace.

        A kill may leave the file half-written, unless `whole_file` writes it.
        """
        return self.folder / name

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """The value of `find`, as JSON values. A process that continues gets the first value.

        Use it for values that differ each time, such as measured times.
        """
        path = self.file(f"{name}.json")
        if not path.exists():
            write_json(path, find())
        return read_json(path)

    def move(self, name: str, target: Path) -> None:
        """Move a complete file of the workspace to its final place.

        A process that is killed before it writes the manifest leaves a note; see `has_moved`.
        """
        write_json(self._note_of(name), {"bytes": self.file(name).stat().st_size})
        target.parent.mkdir(parents=True, exist_ok=True)
        self.file(name).replace(target)

    def has_moved(self, name: str, target: Path) -> bool:
        """Whether a process that was killed had moved the file to `target`."""
        note = self._note_of(name)
        if self.file(name).exists() or not note.exists() or not target.exists():
            return False
        return bool(target.stat().st_size == read_json(note)["bytes"])

    def _note_of(self, name: str) -> Path:
        return self.file(f"{name}.moved.json")


@dataclass(frozen=True)
class Step:
    """One step of a run: its inputs and how its artifact is made.

    Attributes:
        name: the step in words of the user ("teacher").
        manifest: the file that is written last; while it exists, the artifact is complete.
        inputs: everything that the artifact depends on, as JSON values.
        build: writes the artifact.
        join: takes part in a build that another process does; None: nobody can.
    """

    name: str
    manifest: Path
    inputs: Mapping[str, Any]
    build: Callable[[Workspace], Built]
    join: Callable[[Workspace], None] | None = None

    @property
    def workspace(self) -> Workspace:
        """The workspace of a build with these inputs."""
        return Workspace(self._hidden / digest(self.inputs))

    @property
    def _hidden(self) -> Path:
        return self.manifest.parent / HIDDEN / self.manifest.stem

    @property
    def was_begun(self) -> bool:
        """Whether an earlier build, with any inputs, was started and not finished."""
        return self._hidden.is_dir() and any(path.is_dir() for path in self._hidden.iterdir())

    def forget_unfinished(self, *, keep: Workspace | None = None) -> None:
        """Remove the workspaces of this step, except `keep`."""
        if self._hidden.is_dir():
            for folder in self._hidden.iterdir():
                if folder.is_dir() and (keep is None or folder != keep.folder):
                    shutil.rmtree(folder)

    @contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Held while the step works, so that two processes never write one artifact.

        The operating system holds the lock and releases it when the process ends in any way.

        Args:
            wait: wait for another process instead of raising an error.

        Raises:
            UserError: another process holds the lock.
        """
        self._hidden.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._hidden / "lock", timeout=-1 if wait else 0):
                yield
        except Timeout:
            raise UserError(
                f"another process is working on {self.manifest.parent} ({self.name}). Wait for "
                "it, or write elsewhere: --run DIR for a run, --out DIR for a model without a run."
            ) from None


def take_step(step: Step, *, force: bool = False, wait: bool = False) -> Facts:
    """Build the artifact of a step, unless it is complete and was made from the same inputs.

    Args:
        force: build it in any case.
        wait: wait for another process that is working on this step.

    Returns:
        The manifest of the artifact.

    Raises:
        UserError: another process is working on this step.
        Stopped: this process was asked to end.
    """
    stop_if_requested()
    # Processes that only check a finished step need no lock, so they never hinder each other.
    if not force and not step.was_begun and is_current(step.manifest, step.inputs):
        log.info("%s: up to date", step.name)
        return dict(read_json(step.manifest))
    with step.lock(wait=wait):
        current = is_current(step.manifest, step.inputs)
        if current and not force:
            log.info("%s: up to date", step.name)
            manifest = dict(read_json(step.manifest))
        else:
            log.info("%s: working", step.name)
            # A forced step starts from nothing; a killed one continues.
            step.forget_unfinished(keep=None if current else step.workspace)
            step.workspace.folder.mkdir(parents=True, exist_ok=True)
            manifest = _make_artifact(step)
        step.forget_unfinished()
        return manifest


def _make_artifact(step: Step) -> Facts:
    """Build an artifact, then write its manifest atomically."""
    start = time.monotonic()
    if step.manifest.exists():
        # From now on all its files are newer than it, even if the clock was set back. A kill would
        # leave new files beside this old manifest, and their digests will tell.
        os.utime(step.manifest, (0, 0))
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


def is_current(manifest: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the artifact of `manifest` is complete and was made from these inputs."""
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


def _is_unchanged(path: Path, facts: Facts, written: int) -> bool:
    """Whether a file is the one that its manifest describes.

    A file that is newer than the manifest may come from a build that was killed before it wrote its
    own manifest, so the digest decides. In a copied run, files may have any age.
    """
    if not path.exists() or path.stat().st_size != facts["bytes"]:
        return False
    return path.stat().st_mtime_ns <= written or file_sha256(path) == facts["sha256"]


def output_sha256(manifest: Path, name: str) -> str:
    """The SHA-256 of one file of a finished artifact: an input of later steps."""
    return str(read_json(manifest)["outputs"][name]["sha256"])


def take_file_step(file: Path, inputs: Facts, build: Callable[[Workspace], Built]) -> Facts:
    """Take the step that writes one file outside of a run; its manifest lies beside it.

    Raises:
        UserError: somebody else wrote the file.
    """
    step = Step(file.name, file.with_name(file.name + ".json"), inputs, build)
    if file.exists() and not step.manifest.exists() and not step.was_begun:
        raise UserError(
            f"{file} exists and Potstill did not write it. Move it away, or name a folder with "
            "--out."
        )
    return take_step(step)
