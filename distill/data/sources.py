"""`SOURCES`: where photos come from. A source lists files and does not open them."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from configs.artifacts import whole_file
from configs.errors import UserError
from configs.registry import Registry
from distill.data.folders import EXAMPLE, files_below, read_layout

SOURCES = Registry("source")

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
        classes: the names of class folders, of empty ones too; those of `files` need not be here.
        notes: what else lies in the folder and is not used, in sentences for the user.
    """

    root: Path
    files: list[ListedFile]
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@SOURCES.add
def folder(path: Path | None, run_data: Path) -> Listing:
    """A folder with one folder per class, or with split folders of them."""
    if path is None:
        raise UserError("data.path is not set. Name the folder of photos: --set data.path=FOLDER")
    if not path.exists():
        raise UserError(f"{path} does not exist. {EXPECTED_FOLDER}")
    if not path.is_dir():
        raise UserError(f"{path} is a file. {EXPECTED_FOLDER}")
    layout = read_layout(path)
    files = [
        ListedFile(name, folder.label, folder.split)
        for folder in layout.class_folders
        for name in files_below(path, path / folder.path)
    ]
    classes = sorted({folder.label for folder in layout.class_folders})
    if not files:
        content = f"{len(classes)} folders, all empty" if classes else "no folders"
        raise UserError(
            f"{path} holds {content}. Expected one folder per class with photos inside, "
            f"{EXAMPLE.format(path)}"
        )
    return Listing(path, files, classes, layout.notes)


def unlabelled_files(path: Path) -> list[str]:
    """The files below a folder of photos without labels, as absolute paths.

    Raises:
        UserError: `path` is not a folder.
    """
    if not path.is_dir():
        raise UserError(f"data.unlabelled is {path}. Expected a folder of photos.")
    root = path.resolve()
    return [str(root / name) for name in files_below(root, root)]


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
