"""Photos that lie inside a larger file, in a tar or a Parquet table: their paths say where.

    shards/train-000.tar/@1536+20480/cat/0001.jpg        bytes 1536 to 22016 of the tar
    shards/train-000.parquet/@image.3.17/0001.jpg        row 17 of row group 3, column "image"

So a photo is read at random without an index, and without unpacking its neighbours.
"""

import os
import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

SPAN = re.compile(r"(.+?)[/\\]@(\d+)\+(\d+)[/\\].+", re.DOTALL)
ROW = re.compile(r"(.+?\.parquet)[/\\]@([^/\\]+)\.(\d+)\.(\d+)[/\\].+", re.DOTALL | re.IGNORECASE)
PLACE = re.compile(r"/@(?:\d+\+\d+|[^/]+\.\d+\.\d+)/")

GROUPS_IN_MEMORY = 4


class LostPhoto(Exception):
    """The file that holds a photo is shorter than it was, or holds other rows."""


@dataclass(frozen=True, slots=True)
class PackedPhoto:
    """A photo inside a file.

    Attributes:
        container: the file that holds it.
        offset: its first byte; in a table, a number that orders its rows.
        num_bytes: of the photo in a tar.
        column, group, row: where it stands in a table; "" and 0 in a tar.
    """

    container: str
    offset: int
    num_bytes: int = 0
    column: str = ""
    group: int = 0
    row: int = 0

    def read(self) -> bytes:
        """The bytes of the photo.

        Raises:
            LostPhoto: the container has changed.
            OSError: it cannot be read.
        """
        if self.column:
            return self._cell()
        with open(self.container, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), self.num_bytes, self.offset)
        if len(content) < self.num_bytes:
            raise LostPhoto(f"{self.container} is shorter than it was")
        return content

    def _cell(self) -> bytes:
        stat = os.stat(self.container)
        state = stat.st_size, stat.st_mtime_ns
        with _READING:  # or else each thread would read the same rows
            cells = _row_group(self.container, state, self.column, self.group)
        if self.row >= len(cells):
            raise LostPhoto(f"{self.container} holds fewer rows than it did")
        cell = cells[self.row].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise LostPhoto("no bytes")
        return content


def packed_photo(path: Path | str) -> PackedPhoto | None:
    """The place of a photo inside a file; None for a photo that is a file."""
    text = os.fspath(path)
    if "@" not in text:
        return None
    if (span := SPAN.fullmatch(text)) and os.path.isfile(span[1]):
        return PackedPhoto(span[1], int(span[2]), int(span[3]))
    if (row := ROW.fullmatch(text)) and os.path.isfile(row[1]):
        group, number = int(row[3]), int(row[4])
        return PackedPhoto(
            row[1], group << 32 | number, column=unquote(row[2]), group=group, row=number
        )
    return None


def span_path(container: str, offset: int, num_bytes: int, name: str) -> str:
    """The path of a photo in a tar."""
    return f"{container}/@{offset}+{num_bytes}/{name}"


def row_path(container: str, column: str, group: int, row: int, name: str) -> str:
    """The path of a photo in a Parquet file."""
    return f"{container}/@{quote(column, safe='')}.{group}.{row}/{name}"


def shown_path(path: str) -> str:
    """A path as people name it: without the place inside a file."""
    return PLACE.sub("/", path) if "/@" in path else path


def container_of(path: Path | str) -> str:
    """The file that a photo is, or lies in."""
    packed = packed_photo(path)
    return os.fspath(path) if packed is None else packed.container


_READING = threading.Lock()


@lru_cache(GROUPS_IN_MEMORY)
def _row_group(path: str, state: tuple[int, int], column: str, group: int) -> Any:
    """One column of a row group. Neighbours are asked for one after the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(group, columns=[column]).column(0)
    except (pa.ArrowException, IndexError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the file
        raise LostPhoto(f"{path} cannot be read as a Parquet file: {error}") from None
