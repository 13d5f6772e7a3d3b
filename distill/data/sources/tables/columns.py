"""Which column of a table holds the photo, its label, its split and its group."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from configs.errors import UserError
from configs.registry import nearest
from configs.schema.data import ColumnsConfig
from distill.data.manifest import UNLABELLED
from distill.data.sources.folders import split_of_name
from distill.data.sources.listing import Place
from eval.metadata import class_name

USUAL_NAMES = {
    "photo": (
        "path", "file", "filename", "file_name", "filepath", "file_path", "image", "images", "img",
        "photo", "picture", "image_path", "img_path", "image_file", "image_name", "jpg", "png",
    ),
    "label": (
        "label", "labels", "class", "class_name", "classname", "category", "target", "y",
        "label_name", "species", "breed", "fine_label",
    ),
    "split": ("split", "subset", "partition", "set", "fold_name"),
    "group": ("group", "group_id"),
}  # fmt: skip
"""How the columns are usually called, in small letters, the likeliest first."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are read; None for one that the table does not have."""

    photo: str
    label: str
    split: str | None
    group: str | None

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys(filter(None, vars(self).values())))


@dataclass(frozen=True)
class Row:
    """What a row says of its photo.

    Attributes:
        split: None where the split rule decides.
        problem: why its photo cannot be used; "" for none.
    """

    label: str
    split: str | None
    group: str
    problem: str = ""


def find_columns(
    names: Iterable[str], place: Place, source: str, *, photo: str | None = None,
    label: str | None = None,
) -> Columns:  # fmt: skip
    """The columns that `data.columns` and `data.group.column` name, or those of the usual names.

    Args:
        names: of all columns.
        source: the table, for errors.
        photo, label: columns that are known from their types.

    Raises:
        UserError: a column is not there, or nothing says which one holds the photos or labels.
    """
    names = list(names)
    chosen = place.columns or ColumnsConfig()
    for key, name in [*chosen, ("group", place.group_column)]:
        if name is not None and name not in names:
            setting = "data.group.column" if key == "group" else f"data.columns.{key}"
            raise UserError(f"{source} has no column {name!r} ({setting}).{nearest(name, names)}")

    def usual(key: str) -> str | None:
        small = {name.strip().lower(): name for name in reversed(names)}
        return next((small[name] for name in USUAL_NAMES[key] if name in small), None)

    photo = chosen.photo or photo or usual("photo")
    label = chosen.label or label or usual("label")
    for key, column in (("photo", photo), ("label", label)):
        if column is None:
            raise UserError(
                f"{source} has the columns {', '.join(names[:30])}. Which one holds the {key}s? "
                f"Name it: --set data.columns.{key}=COLUMN"
            )
    assert photo is not None
    assert label is not None
    group = place.group_column or usual("group")
    return Columns(photo, label, chosen.split or usual("split"), group)


def names_a_label(names: Iterable[str]) -> bool:
    """Whether one of these columns is called as labels usually are."""
    return any(name.strip().lower() in USUAL_NAMES["label"] for name in names)


def row_of(columns: Columns, values: Mapping[str, Any], where: str, split: str | None) -> Row:
    """What a row says of its photo.

    Args:
        where: the row, for errors.
        split: of the file that holds the row, where it has no column of splits.

    Raises:
        UserError: its split has no name of a split.
    """
    value = values.get(columns.label)
    label = "" if value is None else class_name(str(value).strip())
    named = "" if columns.split is None else _text(values.get(columns.split))
    if named:
        split = split_of_name(named)
        if split is None:
            raise UserError(
                f"{where} has the split {named!r}. Expected train, validation or test in the "
                f"column {columns.split!r}, or nothing. If it holds something else, name another "
                "column: --set data.columns.split=COLUMN"
            )
    group = "" if columns.group is None else _text(values.get(columns.group))
    split = None if split == "train" else split  # the split rule draws from train what is missing
    if not label and split in (None, UNLABELLED):
        return Row("", UNLABELLED, group)
    if split == UNLABELLED:
        return Row("", UNLABELLED, group)
    return Row(label, split, group, "" if label else f"a {split} photo without a label")


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
