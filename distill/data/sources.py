"""`SOURCES`: where photos come from. A source lists files and does not open them."""

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

EXPECTED_FOLDER = "Expected a folder with one folder per class."


@dataclass(frozen=True)
class ListedFile:
    """A file that may be a photo.

    Attributes:
        path: relative to the root of the listing, or absolute.
        label: the name of its class; "" for a photo without a label.
        split: None where the split rule decides.
    """

    path: str
    label: str
    split: str | None


DIGITS_TIME = 946_684_800
"""The time of change of every digit, in seconds since 1970: the first day of 2000."""


@dataclass(frozen=True)
class Listing:
    """The files of a source.

    Attributes:
        root: the folder that their paths are relative to.
    """

    root: Path
    files: list[ListedFile]


@SOURCES.add
def folder(path: Path | None, run_data: Path) -> Listing:
    """A folder with one folder per class, or with train/, validation/ and test/ folders of them."""
    if path is None:
        raise UserError("data.path is not set. Name the folder of photos: --set data.path=FOLDER")
    if not path.exists():
        raise UserError(f"{path} does not exist. {EXPECTED_FOLDER}")
    if not path.is_dir():
        raise UserError(f"{path} is a file. {EXPECTED_FOLDER}")
    top = _folders(path)
    splits = {name: SPLIT_FOLDERS[name.lower()] for name in top if name.lower() in SPLIT_FOLDERS}
    if "train" in splits.values():
        others = sorted(set(top) - set(splits))
        if others:
            raise UserError(
                f"{path} holds {', '.join(splits)} and also {', '.join(others)}. Expected either "
                "class folders, or train/, validation/ and test/ with class folders inside."
            )
        files = _files_of_splits(path, splits)
    else:
        files = _files_of_classes(path, path, None)
    if not files:
        content = f"{len(top)} folders, all empty" if top else "no folders"
        raise UserError(
            f"{path} holds {content}. Expected one folder per class with photos inside, as in\n"
            f"  {path}/cat/1.jpg\n  {path}/dog/1.jpg"
        )
    return Listing(path, files)


def _files_of_splits(root: Path, splits: dict[str, str]) -> list[ListedFile]:
    files: list[ListedFile] = []
    for name, split in splits.items():
        # The split rule draws from train what has no folder of its own.
        files += _files_of_classes(root, root / name, None if split == "train" else split)
    return files


def _files_of_classes(root: Path, parent: Path, split: str | None) -> list[ListedFile]:
    return [
        ListedFile(path, label, split)
        for label in _folders(parent)
        for path in _files(root, parent / label)
    ]


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(root: Path, start: Path) -> Iterator[str]:
    """Every file below `start` except hidden ones; links to folders are followed once."""
    visited: set[str] = set()
    for parent, folders, names in os.walk(start, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()  # a link leads back here
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), root)


def unlabelled_files(path: Path) -> list[str]:
    """The files below a folder of photos without labels, as absolute paths.

    Raises:
        UserError: `path` is not a folder.
    """
    if not path.is_dir():
        raise UserError(f"data.unlabelled is {path}. Expected a folder of photos.")
    root = path.resolve()
    return [str(root / name) for name in _files(root, root)]


@SOURCES.add
def digits(path: Path | None, run_data: Path) -> Listing:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, written as PNG files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    if path is not None:
        raise UserError(
            f"data.path is {path}, but source digits reads no folder. "
            "Set data.source=folder to use the photos, or leave data.path out."
        )
    root = run_data / "digits"
    bunch = load_digits()
    files: list[ListedFile] = []
    for number, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        name = f"{label}/{number:04d}.png"
        if not (root / name).exists():
            with whole_file(root / name) as unfinished:
                # Sixteen grey levels; the factor 255 / 16 makes full ink white.
                Image.fromarray((image * 15.9375).astype("uint8")).save(unfinished)
                # Two processes may write the same photo. With one time of change for both, the
                # second does not make the photo look like a new one.
                os.utime(unfinished, (DIGITS_TIME, DIGITS_TIME))
        files.append(ListedFile(name, str(label), None))
    return Listing(root, files)
