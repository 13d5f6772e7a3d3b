"""`SOURCES`: where photos come from, and what a source returns: the files that may be photos."""

from dataclasses import dataclass, field
from pathlib import Path

from configs.registry import Registry

SOURCES = Registry("source")


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
