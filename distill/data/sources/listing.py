"""`SOURCES`: where photos come from, and what a source returns: the files that may be photos."""

from dataclasses import dataclass, field
from pathlib import Path

from configs.registry import Registry

SOURCES = Registry("source")


@dataclass(frozen=True)
class Place:
    """What a config says of where its photos are.

    Attributes:
        path: `data.path`.
        run_data: the folder of the run that a source may write to.
        has_groups: whether `data.group` is set, so that folders inside a class may be groups.
    """

    path: Path | None
    run_data: Path = Path()
    has_groups: bool = False


@dataclass(frozen=True)
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
        return self.name or self.path


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
