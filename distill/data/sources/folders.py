"""How a folder of photos is laid out: its class folders, and which split each belongs to."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from configs.artifacts import ending
from configs.errors import UserError
from eval.metadata import class_name
from eval.photo_files import PHOTO_SUFFIXES

JUNK = frozenset({
    "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "found.000",
    "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
})  # fmt: skip
"""What archives, file systems and network drives leave behind, in small letters. Names that begin
with a dot are ignored, too."""

SPLIT_WORDS = {
    "train": "train|training",
    "validation": "validation|validate|valid|val|development|dev|evaluation|eval",
    "test": "test|testing",
    "unlabelled": "predictions?|predict|pred|unlabell?ed",
}
ORDINARY_WORDS = "datasets?|data|sets?|seg|splits?|images?|imgs?|photos?|pictures?|pics?|folder|dir"
"""What stands beside the name of a split, as in `seg_train`, `test-images` and `training_set`."""

SPLIT_NAMES = {
    split: re.compile(f"(?:{ORDINARY_WORDS})*(?:{words})(?:{ORDINARY_WORDS})*")
    for split, words in SPLIT_WORDS.items()
}

EXAMPLE = "as in\n  {0}/cat/1.jpg\n  {0}/dog/1.jpg"


@dataclass(frozen=True)
class ClassFolder:
    """A folder with the photos of one class.

    Attributes:
        path: relative to the root.
        label: the name of the class, in Unicode form NFC: macOS writes the same name otherwise.
        split: the split that its photos belong to; None where the split rule decides.
    """

    path: str
    label: str
    split: str | None


@dataclass(frozen=True)
class Layout:
    """The class folders below a root.

    Attributes:
        notes: what else lies there and is not used, in sentences for the user.
    """

    class_folders: list[ClassFolder] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_layout(root: Path, *, has_groups: bool = False) -> Layout:
    """Class folders, either directly below `root` or inside its split folders.

    Args:
        has_groups: whether classes may hold folders of the same names, as of their patients.

    Raises:
        UserError: the folders are neither classes nor splits, or could be both.
    """
    top = folders_in(root)
    splits = {name: split for name in top if (split := split_of_name(name))}
    others = [name for name in top if name not in splits]
    if "train" not in splits.values() or _is_class_called_train(root, splits, others):
        _refuse_one_folder(root, top)
        if not has_groups:
            _refuse_same_folders(root, top)
        return _class_folders(root, root, None)
    if others:
        raise UserError(
            f"{root} holds {_names(splits)} and also {_names(others)}. Expected either class "
            "folders, or train/, validation/ and test/ with class folders inside. Move "
            f"{_names(others)} elsewhere, or into a split folder."
        )
    layout = Layout(notes=_loose_photos(root))
    for name, split in splits.items():
        part = _split_folder(root, _innermost(root / name, split), split)
        layout.class_folders.extend(part.class_folders)
        layout.notes.extend(part.notes)
    return layout


def has_test_folder(root: Path) -> bool:
    """Whether the folder says which photos test a model; else the split rule draws them."""
    return any(folder.split == "test" for folder in read_layout(root).class_folders)


def is_flat(root: Path) -> bool:
    """Whether a folder holds photos and no folders: nobody said which classes they are of."""
    return root.is_dir() and not folders_in(root) and _num_photos(root) > 0


def split_of_name(name: str) -> str | None:
    """The split that a folder of this name holds; "unlabelled" for photos without classes."""
    letters = re.sub(r"[\W\d_]+", "", name.casefold())
    return next((split for split, form in SPLIT_NAMES.items() if form.fullmatch(letters)), None)


def split_of_shard(name: str) -> str | None:
    """The split in the name of a file, train-00000-of-00001.tar, or in that of its folders."""
    path = Path(name)
    stem = path.stem.partition("-of-")[0].rstrip("0123456789").rstrip("-")
    names = [stem, *reversed(path.parent.parts)]
    return next((split for part in names if (split := split_of_name(part))), None)


def folders_in(path: Path) -> list[str]:
    """The names of the folders directly inside, in order, without hidden ones and JUNK."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_junk(entry.name))


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name was not put there by the user."""
    return name.startswith(".") or name.casefold() in JUNK


def files_below(root: Path, start: Path) -> Iterator[str]:
    """Every file below `start`, relative to `root`; links to folders are followed once."""
    visited: set[str] = set()
    for parent, folders, names in os.walk(start, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()  # a link leads back here
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_junk(name))
        below = os.path.relpath(parent, root)
        prefix = "" if below == os.curdir else f"{below}{os.sep}"
        for name in sorted(names):
            if not is_junk(name):
                yield prefix + name


def _split_folder(root: Path, folder: Path, split: str) -> Layout:
    if split == "unlabelled":
        note = (
            f"{folder} is not searched for classes, because its name says that it has none. A "
            f"run learns from its photos with --set data.unlabelled={folder}"
        )
        return Layout(notes=[note])
    # The split rule draws from train what has no folder of its own.
    layout = _class_folders(root, folder, None if split == "train" else split)
    if split == "train" and not layout.class_folders:
        raise UserError(
            f"{folder} holds no class folders (photos directly in it: {_num_photos(folder)}). "
            f"Expected one folder per class inside, {EXAMPLE.format(folder)}"
        )
    return layout


def _class_folders(root: Path, parent: Path, split: str | None) -> Layout:
    classes = [
        ClassFolder(os.path.relpath(parent / name, root), class_name(name), split)
        for name in folders_in(parent)
    ]
    return Layout(classes, _loose_photos(parent))


def _loose_photos(folder: Path) -> list[str]:
    num = _num_photos(folder)
    note = f"Photos directly in {folder}, in no class folder, are left out: {num}."
    return [note] if num else []


def _num_photos(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(
            ending(entry.name) in PHOTO_SUFFIXES and not is_junk(entry.name) and entry.is_file()
            for entry in entries
        )


def _innermost(folder: Path, split: str) -> Path:
    """The folder with the classes of a split: archives nest them, as in seg_train/seg_train/."""
    inner = folders_in(folder)
    while len(inner) == 1 and split_of_name(inner[0]) == split:
        folder = folder / inner[0]
        inner = folders_in(folder)
    return folder


def _is_class_called_train(root: Path, splits: dict[str, str], others: list[str]) -> bool:
    """Whether `train` is a class among others, such as bus and car: it holds photos itself."""
    if len(splits) > 1 or len(others) < 2:
        return False
    (folder,) = (root / name for name in splits)
    return not folders_in(folder) and _num_photos(folder) > 0


def _refuse_one_folder(root: Path, top: list[str]) -> None:
    """A folder around the class folders is what archives and downloads often bring."""
    inside = folders_in(root / top[0]) if len(top) == 1 else []
    if len(inside) > 1:
        raise UserError(
            f"{root} holds one folder only, {top[0]}, and inside it lie {_names(inside)}. If these "
            f"are the classes or the splits, name that folder instead: {root / top[0]}"
        )


def _refuse_same_folders(root: Path, top: list[str]) -> None:
    """Two folders with the same folders inside are two splits, or two halves, but not classes."""
    inside = {name: {inner.casefold() for inner in folders_in(root / name)} for name in top}
    nested = [name for name in top if len(inside[name]) > 1]
    for first, second in combinations(nested, 2):
        shared = inside[first] & inside[second]
        smaller = min(len(inside[first]), len(inside[second]))
        if len(shared) > 1 and 2 * len(shared) > smaller:
            raise UserError(
                f"{root} holds the folders {first} and {second}, and both hold the folders "
                f"{_names(sorted(shared))}. So they look like two splits, not like two classes. "
                "Splits are recognised by their names: train, validation and test, and train must "
                "be among them. If these are classes with a folder for each patient, animal or "
                "burst inside, keep its photos together: --set data.group=parent"
            )


def _names(names: list[str] | dict[str, str]) -> str:
    first = list(names)[:10]
    return ", ".join(first) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
