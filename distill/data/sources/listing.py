"""`SOURCES`: where photos come from, and what a source returns: the files that may be photos."""

from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import UserError
from configs.registry import Registry
from configs.schema.data import ColumnsConfig
from eval.packed_photos import shown_path

SOURCES = Registry("source")
"""Functions that list the files of a `Place`. Facts that a source declares where it registers:

endings: of the files that it reads, as in ".zip". `data.path` or a TARGET may name such a file.
named: what follows its name and a colon in `data.source`, if something does.
reads: further settings that it reads: "photos", "columns", "group.column".
"""


@dataclass(frozen=True)
class Place:
    """What a config says of where its photos are.

    Attributes:
        path: `data.path`.
        run_data: the folder of the run that a source may write to.
        name: what follows the colon of `data.source`.
        photos: `data.photos`, what paths in a file are relative to: a folder or its URL.
        columns: `data.columns`, where photos and labels stand in a table.
        group_column: `data.group.column`.
        has_groups: whether `data.group` is set, so that folders inside a class may be groups.
    """

    path: Path | None
    run_data: Path = Path()
    name: str = ""
    photos: Path | str | None = None
    columns: ColumnsConfig | None = None
    group_column: str | None = None
    has_groups: bool = False

    def file(self, expected: str) -> Path:
        """`path`, which must be a file.

        Args:
            expected: what is expected of it, for the error.

        Raises:
            UserError: there is no such file.
        """
        if self.path is None:
            raise UserError(f"data.path is not set. Name {expected}: --set data.path=FILE")
        if not self.path.is_file():
            problem = "is a folder" if self.path.is_dir() else "does not exist"
            raise UserError(f"{self.path} {problem}. Expected {expected}.")
        return self.path


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that may be a photo.

    Attributes:
        path: relative to the root of the listing, or absolute.
        label: the name of its class; "" for a photo without a label.
        split: None where the split rule decides.
        group: photos of one group stay on one side of every split; "" for none.
        name: what its source calls it, where that is not the path.
        problem: why there is no photo to read; "" if there may be one.
    """

    path: str
    label: str
    split: str | None
    group: str = ""
    name: str = ""
    problem: str = ""

    @property
    def source_name(self) -> str:
        """What its source calls it."""
        return self.name or shown_path(self.path)


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
