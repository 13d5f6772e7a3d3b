"""The paths of many photos, made as they are asked for: a `Path` takes 600 bytes of memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload


@dataclass(frozen=True)
class PathsBelow(Sequence[Path]):
    """Paths below a folder, or absolute ones."""

    root: Path
    names: Sequence[str]

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> "PathsBelow": ...
    def __getitem__(self, index: int | slice) -> "Path | PathsBelow":
        if isinstance(index, slice):
            return PathsBelow(self.root, self.names[index])
        return self.root / self.names[index]

    def __len__(self) -> int:
        return len(self.names)


def of_rows(paths: Sequence[Path], rows: Sequence[int]) -> Sequence[Path]:
    """The paths of these rows."""
    if isinstance(paths, PathsBelow):
        return PathsBelow(paths.root, [paths.names[row] for row in rows])
    return [paths[row] for row in rows]
