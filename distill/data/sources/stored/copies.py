"""Photos in object storage are copied once into the run directory: `data/stored/`.

So all later steps, and all machines that share the run directory, read files. A killed copy
continues, and only what changed in the storage is copied again: a copy has the size and the time of
its original.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

from configs.artifacts import digest, ending, unfinished_name
from configs.errors import StepFailed
from configs.progress import track
from configs.remote.storage import (
    PART_BYTES,
    NotStored,
    StoredFile,
    fetch,
    joined,
    read_stored,
    stored_file,
    stored_files,
)
from configs.resume import Built, Step, Workspace, take_step
from distill.data.sources.folders import is_junk
from distill.data.sources.unpacked import finish
from eval.photo_files import PHOTO_SUFFIXES

READERS = 16
"""Photos that are copied at the same time: most of the time is spent waiting for the storage."""

READ_AT_ONCE = 1024
MAX_NAME_BYTES = 255


def copied(
    run_data: Path, url: str, *, is_file: bool = False, name: str = "photos"
) -> tuple[Path, list[str]]:
    """The copy of a folder of photos in a storage, or of one file with photos.

    Args:
        run_data: the folder `data` of the run.
        is_file: whether the URL names a table, an archive or the like.
        name: of the copy in the run.

    Returns:
        Its path, and notes for the user on what was not copied.

    Raises:
        UserError: nothing lies there, or there is no permission to read it.
        StepFailed: the storage does not answer.
    """
    if is_file:
        file = stored_file(url)
        return _copies(run_data, url, [file], name="source", is_one=True) / file.name, []
    files, num_others = [], 0
    for file in stored_files(url):
        if any(map(is_junk, PurePosixPath(file.name).parts)):
            continue
        if ending(file.name) in PHOTO_SUFFIXES and _can_be_written(file.name):
            files.append(file)
        else:
            num_others += 1
    note = f"Files in {url} that are no photos, or have names that no file can have: {num_others}."
    return _copies(run_data, url, files, name=name), [note] if num_others else []


def copies_of(run_data: Path, folder: str, names: Sequence[str]) -> Path:
    """A folder with the copies of those photos of a folder in a storage that a table names.

    What is not in the storage is not in the folder.
    """
    inside: dict[str, StoredFile] = {}
    for parent in sorted({name.rpartition("/")[0] for name in names}):
        try:
            for file in stored_files(joined(folder, parent), below=False):
                file_name = f"{parent}/{file.name}" if parent else file.name
                inside[file_name] = StoredFile(file_name, file.num_bytes, file.seconds)
        except NotStored:
            continue
    files = [inside[name] for name in dict.fromkeys(names) if name in inside]
    return _copies(run_data, folder, [f for f in files if _can_be_written(f.name)], name="named")


def _copies(
    run_data: Path, url: str, files: list[StoredFile], *, name: str, is_one: bool = False
) -> Path:
    """The folder with the copies of these files, which are made as far as they are not there."""
    root = run_data / "stored" / name

    def build(workspace: Workspace) -> Built:
        copy = partial(_copy, url, root, is_one)
        with ThreadPoolExecutor(READERS) as pool, track(f"copying {url}", len(files)) as advance:
            for start in range(0, len(files), READ_AT_ONCE):
                part = files[start : start + READ_AT_ONCE]
                for number, _ in enumerate(pool.map(copy, part), start + 1):
                    advance(number)
        _remove_others(root, {file.name for file in files})
        return [], {"num_files": len(files)}

    rows = [[file.name, file.num_bytes, file.seconds] for file in files]
    step = Step(
        f"copy of {url}",
        root.with_name(f"{name}.json"),
        {"url": url, "files": digest(rows)},
        build,
    )
    take_step(step, force=not root.is_dir(), wait=True)
    return root


def _copy(url: str, root: Path, is_one: bool, file: StoredFile) -> None:
    target = root / file.name
    if target.exists():
        stat = target.stat()
        if stat.st_size == file.num_bytes and int(stat.st_mtime) == file.seconds:
            return
    source = url if is_one else joined(url, file.name)
    if is_one or file.num_bytes > PART_BYTES:  # in parts, each with its own limit of time
        fetch(source, target)
        if not is_one:  # some storages do not say the size of a file
            _check_size(source, target.stat().st_size, file)
        os.utime(target, (file.seconds, file.seconds))
        return
    content = read_stored(source)
    _check_size(source, len(content), file)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Threads copy files of one name into different folders.
    unfinished = target.with_name(unfinished_name(target.name, os.getpid()))
    try:
        unfinished.write_bytes(content)
        finish(unfinished, target, file.seconds)
    finally:
        unfinished.unlink(missing_ok=True)


def _check_size(source: str, num_bytes: int, file: StoredFile) -> None:
    if num_bytes != file.num_bytes:
        raise StepFailed(f"{source} changed while it was copied. Give the same command again.")


def _remove_others(root: Path, names: set[str]) -> None:
    """Remove copies of what is no longer in the storage, and empty folders."""
    for parent, _, files in os.walk(root, topdown=False):
        for file in files:
            path = Path(parent, file)
            if path.relative_to(root).as_posix() not in names:
                path.unlink()
        if Path(parent) != root and not os.listdir(parent):
            os.rmdir(parent)


def _can_be_written(name: str) -> bool:
    """Whether a name in a storage, where all are allowed, can be that of a file in a folder."""
    return "\0" not in name and all(
        part not in ("", ".", "..") and len(os.fsencode(part)) <= MAX_NAME_BYTES
        for part in name.split("/")
    )
