"""Photos that do not lie as files are written once into the run directory: `data/photos/`.

So all later steps read files, and memory holds one photo at a time. This is a step like any other:
a killed one continues, and a source that did not change is not unpacked again.
"""

import csv
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from sys import intern

from configs.artifacts import digest, errors_name, unfinished_name, write_csv
from configs.errors import UserError
from configs.progress import Advance, track
from configs.resume import Built, Facts, Step, Workspace, is_current, take_step
from distill.data.sources.listing import ListedFile

FIXED_TIME = 946_684_800
"""The time of change of every unpacked photo, in seconds since 1970: the first day of 2000. So a
photo that is unpacked again is not a new one."""

ENDINGS = {
    b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp", b"II*\0": ".tif",
    b"MM\0*": ".tif",
}  # fmt: skip
"""By the first bytes of a file. All others are called .jpg: the content decides when it is read."""

PHOTOS_IN_A_FOLDER = 1000
UNPACKED = "unpacked.json"


@dataclass(frozen=True)
class RawPhoto:
    """A photo inside a source.

    Attributes:
        content: returns the bytes of the file to write; None if there is a problem.
        name: what the source calls it.
        label, split, group, problem: as in `ListedFile`.
    """

    content: Callable[[], bytes] | None
    name: str
    label: str
    split: str | None
    group: str = ""
    problem: str = ""


def unpacked_folder(run_data: Path, inputs: Facts, write: Callable[[Path], Facts]) -> Path:
    """The folder with what `write` writes, once for these inputs.

    Args:
        run_data: the folder `data` of the run.
        inputs: what tells this source, in this state, from all others.
        write: gets an empty folder, or one in which a killed process has written; returns facts.
    """
    folder, root = run_data / "photos", _folder_of(run_data, inputs)

    def build(workspace: Workspace) -> Built:
        root.mkdir(parents=True, exist_ok=True)
        facts = write(root)
        for other in folder.iterdir():  # of a source that has changed
            if other.is_dir() and other != root and not other.name.startswith("."):
                shutil.rmtree(other)
        return [], facts

    step = Step("unpack", folder / UNPACKED, inputs, build)
    take_step(step, force=not root.is_dir(), wait=True)
    return root


def is_unpacked(run_data: Path, inputs: Facts) -> bool:
    """Whether the folder for these inputs is there, complete."""
    return _folder_of(run_data, inputs).is_dir() and is_current(
        run_data / "photos" / UNPACKED, inputs
    )


def _folder_of(run_data: Path, inputs: Facts) -> Path:
    return run_data / "photos" / digest(inputs)


def unpacked_photos(
    run_data: Path,
    inputs: Facts,
    photos: Callable[[], Iterator[RawPhoto]],
    total: int,
) -> tuple[Path, list[ListedFile]]:
    """The folder and the list of the photos of a source, which are unpacked at the first time.

    Args:
        photos: the same photos in the same order whenever it is called with these inputs.
        total: how many there are, for the progress bar.
    """

    def write(root: Path) -> Facts:
        with track("unpacking", total) as advance:
            num = write_listing(root / "index.csv", _write_all(root, photos(), advance))
        return {"num_photos": num}

    root = unpacked_folder(run_data, inputs, write)
    return root, list(read_listing(root / "index.csv"))


def write_listing(path: Path, files: Iterable[ListedFile]) -> int:
    """Write a table of files, which `read_listing` reads; returns their number.

    Raises:
        UserError: a name holds half of a character, as only JSON can.
    """
    try:
        return write_csv(path, [field.name for field in fields(ListedFile)], map(astuple, files))
    except UnicodeEncodeError as error:
        around = error.object[max(error.start - 20, 0) : error.end + 20].strip()
        raise UserError(
            f"a label or a name in the list of photos is no text: ...{around!r}... holds half of a "
            "character. Write it again."
        ) from None


def read_listing(path: Path) -> Iterator[ListedFile]:
    """The files of a table that `write_listing` wrote."""
    with open(path, newline="", encoding="utf-8") as table:
        rows = csv.reader(table)
        next(rows)
        for name, label, split, group, source_name, problem in rows:
            # One text for all photos of a class, not one for each photo.
            split_or_none = intern(split) or None
            yield ListedFile(name, intern(label), split_or_none, group, source_name, problem)


def _write_all(root: Path, photos: Iterator[RawPhoto], advance: Advance) -> Iterator[ListedFile]:
    for number, photo in enumerate(photos):
        path, problem = "", photo.problem
        if photo.content is not None:
            content = photo.content()
            ending = next((e for start, e in ENDINGS.items() if content.startswith(start)), ".jpg")
            stem = re.sub(r"[^\w-]+", "-", Path(photo.name).stem, flags=re.ASCII).strip("-")[:60]
            path = f"{number // PHOTOS_IN_A_FOLDER:04d}/{number:06d}-{stem}{ending}"
            write_once(root / path, content)
        name = photo.name.encode("utf-8", "backslashreplace").decode()
        yield ListedFile(path or name, photo.label, photo.split, photo.group, name, problem)
        advance(number + 1)


def write_once(path: Path, content: bytes) -> None:
    """Write a file, completely or not at all, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(unfinished_name(path.name, os.getpid()))
    try:
        with errors_name(path):
            unfinished.write_bytes(content)
            finish(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def finish(unfinished: Path, path: Path, seconds: int = FIXED_TIME) -> None:
    """Give a written file its time and its name."""
    os.utime(unfinished, (seconds, seconds))
    os.replace(unfinished, path)


def state_of(path: Path) -> Facts:
    """What tells a file from its later versions: size and time of change."""
    stat = path.stat()
    return {"bytes": stat.st_size, "changed": stat.st_mtime_ns}
