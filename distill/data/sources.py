"""`SOURCES`: where photos come from; each lists (path, label, split) without opening a file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.artifacts import whole_file
from configs.errors import UserError
from configs.registry import Registry

SOURCES = Registry("source")

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


DIGITS_TIME = 946_684_800
"""The time of change of every digit, in seconds since 1970: the first day of 2000."""


@dataclass(frozen=True)
class Listing:
    """Files that may be photos.

    Attributes:
        root: what the paths are relative to.
        files: (path relative to root, class name, split or None where the hash decides).
    """

    root: Path
    files: list[tuple[str, str, str | None]]


@SOURCES.add
def folder(path: Path | None, run_data: Path) -> Listing:
    """One folder a class, or train/, validation/ and test/ folders of them."""
    if path is None:
        raise UserError("data.path is not set. Name the folder of photos: --set data.path=FOLDER")
    if not path.exists():
        raise UserError(f"{path} does not exist. Expected a folder with one folder per class.")
    if not path.is_dir():
        raise UserError(f"{path} is a file. Expected a folder with one folder per class.")
    top = _folders(path)
    splits = {name: SPLIT_FOLDERS[name.lower()] for name in top if name.lower() in SPLIT_FOLDERS}
    files: list[tuple[str, str, str | None]] = []
    if "train" in splits.values():
        strangers = sorted(set(top) - set(splits))
        if strangers:
            raise UserError(
                f"{path} holds {', '.join(splits)} and also {', '.join(strangers)}. Expected "
                "either class folders, or train/, validation/ and test/ with class folders inside."
            )
        # Without a folder of its own, validation (or test) is drawn from train by the hash.
        for name, split in splits.items():
            fixed = None if split == "train" else split
            for label in _folders(path / name):
                files += [(f, label, fixed) for f in _files(path, path / name / label)]
    else:
        for label in top:
            files += [(f, label, None) for f in _files(path, path / label)]
    if not files:
        found = f"{len(top)} folders, all empty" if top else "no folders"
        raise UserError(
            f"{path} holds {found}. Expected one folder per class with photos inside, as in\n"
            f"  {path}/cat/1.jpg\n  {path}/dog/1.jpg"
        )
    return Listing(path, files)


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(root: Path, start: Path) -> Iterator[str]:
    """Every file below `start` but hidden ones; links to folders are followed once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(start, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()  # a link back to where we have been
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), root)


def unlabelled_files(path: Path) -> list[str]:
    """Files below a folder of photos without labels, as absolute paths.

    Raises:
        UserError: it is no folder.
    """
    if not path.is_dir():
        raise UserError(f"data.unlabelled is {path}. Expected a folder of photos.")
    root = path.resolve()
    return [str(root / name) for name in _files(root, root)]


@SOURCES.add
def digits(path: Path | None, run_data: Path) -> Listing:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, written out as PNG files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    if path is not None:
        raise UserError(
            f"data.path is {path}, but source digits reads no folder. "
            "Set data.source=folder to use the photos, or leave data.path out."
        )
    root = run_data / "digits"
    bunch = load_digits()
    files: list[tuple[str, str, str | None]] = []
    for number, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        name = f"{label}/{number:04d}.png"
        if not (root / name).exists():
            with whole_file(root / name) as unfinished:
                # Sixteen grey levels; 255 / 16 makes full ink white.
                Image.fromarray((image * 15.9375).astype("uint8")).save(unfinished)
                # Two processes may write the same photo. With one time of change for both, the
                # second does not make the photo look like a new one.
                os.utime(unfinished, (DIGITS_TIME, DIGITS_TIME))
        files.append((name, str(label), None))
    return Listing(root, files)
