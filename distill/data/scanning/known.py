"""What earlier scans of a run have learned of photo files, so that each is opened once.

A file is the same one while its device, inode, size and both of its times (of the content and of
the inode) are the same. Nobody sets the time of an inode: a photo that is replaced by one of the
same size and date has another. Git's index works likewise.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from configs.artifacts import digest_of_rows, whole_file
from distill.data.sources.listing import Listing
from distill.data.splitting.near_duplicates import SIDE
from eval.packed_photos import container_of

IDENTITY = ("device", "inode", "offset", "bytes", "modified_ns", "changed_ns")
"""What tells a file, or a photo inside a file, from all others and from its own later versions."""

RECORD = np.dtype(
    [
        ("device", "<u8"), ("inode", "<u8"), ("offset", "<u8"), ("bytes", "<u8"),
        ("modified_ns", "<i8"), ("changed_ns", "<i8"), ("width", "<u4"), ("height", "<u4"),
        ("thumbnail", "<i8"), ("sha256", "V32"),
    ]
)  # fmt: skip
"""One photo: its identity, and what was learned."""

NO_THUMBNAIL, NOT_LOOKED_FOR = -1, -2
"""In place of the row of a thumbnail: the photo shows too little, or nobody wanted one."""

THUMBNAIL_BYTES = SIDE * SIDE

SETTLED_NS, COARSELY_SETTLED_NS = 50_000_000, 2_500_000_000
"""A file that changed so recently may change again within one tick of its file system's clock, so
it is not remembered. Some file systems count seconds only."""

RECORDS_AT_ONCE = 1024
RECORDS, THUMBNAILS = "scanned.bin", "thumbnails.bin"


@dataclass(frozen=True, slots=True)
class Learned:
    """What a photo file holds.

    Attributes:
        width, height: in pixels, with the photo upright.
        thumbnail: its row in `KnownPhotos.thumbnails`; NO_THUMBNAIL, or NOT_LOOKED_FOR.
    """

    width: int
    height: int
    sha256: str
    thumbnail: int


def identity(stat: os.stat_result, offset: int = 0) -> tuple[int, ...]:
    """The values of IDENTITY.

    Args:
        offset: where a photo begins that lies inside a file.
    """
    return (
        stat.st_dev, stat.st_ino, offset, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    )  # fmt: skip


class KnownPhotos:
    """The records of a run, in a file that grows while photos are read. A killed scan goes on.

    Use it in a `with` block.

    Args:
        folder: of the files; None for records that nobody reads again.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._new: list[tuple[int | bytes, ...]] = []
        self._stored = np.empty(0, RECORD)
        self._keys, self._rows = np.empty(0, "<u8"), np.empty(0, "int64")
        self._record_file: IO[bytes] | None = None
        if folder is None:
            self._thumbnail_file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._thumbnail_file = _opened(folder / THUMBNAILS, THUMBNAIL_BYTES)
        self._num_thumbnails = self._thumbnail_file.seek(0, os.SEEK_END) // THUMBNAIL_BYTES
        if folder is not None:
            _forget_lost(folder / RECORDS, self._num_thumbnails)
            self._record_file = _opened(folder / RECORDS, RECORD.itemsize)
        if self._record_file is not None and self._record_file.tell():
            self._stored = np.memmap(self._record_file, RECORD, "r")
            # Of the records with one key the last is right.
            self._keys, rows = np.unique(_keys(self._stored)[::-1], return_index=True)
            self._rows = len(self._stored) - 1 - rows
        self._is_used = np.zeros(len(self._stored), bool)

    def find(
        self, identities: Sequence[tuple[int, ...]], *, with_thumbnails: bool
    ) -> list[Learned | None]:
        """What is known of files; None for a file that is new or has changed.

        Args:
            with_thumbnails: whether a record is of use only if a thumbnail was looked for.
        """
        if not len(self._keys) or not identities:
            return [None] * len(identities)
        wanted = np.zeros(len(identities), RECORD)
        for name, values in zip(IDENTITY, zip(*identities, strict=True), strict=True):
            wanted[name] = values
        places = np.searchsorted(self._keys, _keys(wanted)).clip(max=len(self._keys) - 1)
        rows = self._rows[places]
        stored = self._stored[rows]
        thumbnails = stored["thumbnail"]
        is_same = np.ones(len(wanted), bool)
        for name in IDENTITY:
            is_same &= stored[name] == wanted[name]
        if with_thumbnails:
            is_same &= thumbnails != NOT_LOOKED_FOR
        self._is_used[rows[is_same]] = True
        digests = stored["sha256"].tobytes().hex()
        columns = (is_same, stored["width"], stored["height"], thumbnails)
        return [
            Learned(width, height, digests[64 * row : 64 * row + 64], thumbnail) if same else None
            for row, (same, width, height, thumbnail) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            )
        ]

    def add_thumbnail(self, content: bytes | None) -> int:
        """Store a thumbnail; returns its row, or NO_THUMBNAIL for None."""
        if content is None:
            return NO_THUMBNAIL
        self._thumbnail_file.write(content)
        self._num_thumbnails += 1
        return self._num_thumbnails - 1

    def add(self, identity: tuple[int, ...], learned: Learned) -> None:
        """Remember a photo, unless it may still be changing."""
        if self._record_file is None or not _is_settled(identity):
            return
        content = bytes.fromhex(learned.sha256)
        self._new.append((*identity, learned.width, learned.height, learned.thumbnail, content))
        if len(self._new) >= RECORDS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what is new: first the thumbnails, then the records that name them."""
        self._thumbnail_file.flush()
        if self._record_file is not None and self._new:
            self._record_file.write(np.array(self._new, RECORD).tobytes())
            self._record_file.flush()
        self._new.clear()

    def thumbnails(self) -> np.ndarray:
        """All thumbnails, uint8 (rows, SIDE, SIDE), mapped from the disk."""
        self.flush()
        if not self._num_thumbnails:
            return np.empty((0, SIDE, SIDE), "uint8")
        return np.memmap(
            self._thumbnail_file, "uint8", "r", shape=(self._num_thumbnails, SIDE, SIDE)
        )

    def forget_others(self) -> None:
        """Leave out what no file of this scan needed, if that is most of it. It ends the scan."""
        self.flush()
        if self._folder is None or 2 * int((~self._is_used).sum()) <= len(self._is_used):
            return
        records = np.fromfile(self._folder / RECORDS, RECORD)
        is_new = np.ones(len(records), bool)
        is_new[: len(self._is_used)] = self._is_used
        records = records[is_new]
        old = self.thumbnails()
        with whole_file(self._folder / THUMBNAILS) as unfinished:
            with open(unfinished, "wb") as file:
                for number, row in enumerate(np.flatnonzero(records["thumbnail"] >= 0).tolist()):
                    file.write(old[records["thumbnail"][row]].tobytes())
                    records["thumbnail"][row] = number
            # Records never name the thumbnails of others, whenever this process is killed.
            (self._folder / RECORDS).unlink()
        with whole_file(self._folder / RECORDS) as unfinished:
            records.tofile(unfinished)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()
        self._thumbnail_file.close()
        if self._record_file is not None:
            self._record_file.close()


def _opened(path: Path, row_bytes: int) -> IO[bytes]:
    """A file of rows to append to, without the part of a row that a killed process left."""
    file = open(path, "ab+")  # noqa: SIM115
    size = file.seek(0, os.SEEK_END)
    file.seek(file.truncate(size - size % row_bytes))
    return file


def _forget_lost(path: Path, num_thumbnails: int) -> None:
    """Leave out records of thumbnails that a power cut has lost: others will get their rows."""
    num_records = path.stat().st_size // RECORD.itemsize if path.exists() else 0
    if not num_records:
        return
    records = np.memmap(path, RECORD, "r", shape=(num_records,))
    is_lost = records["thumbnail"] >= num_thumbnails
    if is_lost.any():
        with whole_file(path) as unfinished:
            records[~is_lost].tofile(unfinished)


def _keys(records: np.ndarray) -> np.ndarray:
    """A number for each file and offset in it, uint64; different ones hardly ever share it."""
    file = records["device"] * np.uint64(0xD1B54A32D192ED03) + records["inode"]
    return file * np.uint64(0x9E3779B97F4A7C15) + records["offset"]


def _is_settled(identity: tuple[int, ...]) -> bool:
    *_, modified_ns, changed_ns = identity
    is_coarse = changed_ns % 1_000_000_000 == 0
    limit = COARSELY_SETTLED_NS if is_coarse else SETTLED_NS
    return time.time_ns() - max(modified_ns, changed_ns) > limit


@dataclass(frozen=True)
class SourceState:
    """What tells the files of a source from any others, and from their later versions.

    Attributes:
        listing: a digest of their names, labels, sizes and dates.
        inodes: a digest of what `listing` leaves out of their identity.
    """

    listing: str
    inodes: str


def state_of_files(listing: Listing, own_folder: Path) -> SourceState:
    """The state of the files of a source.

    Args:
        own_folder: where Potstill itself writes photos, which are the same whenever it does.
    """
    own = os.path.join(own_folder, "")
    inodes = hashlib.sha256()

    def rows() -> Iterator[list[str | int | None]]:
        stats: dict[str, os.stat_result | None] = {}
        for file in listing.files:
            path = os.path.join(listing.root, file.path)
            container = container_of(path)
            if container == path:
                stat = _stat(path)
            else:  # of thousands of photos
                if container not in stats:
                    stats[container] = _stat(container)
                stat = stats[container]
            size, changed = (stat.st_size, stat.st_mtime_ns) if stat else (None, None)
            if stat and not path.startswith(own):
                inodes.update(b"%d %d\n" % (stat.st_ino, stat.st_ctime_ns))
            later = [value for value in (file.group, file.name, file.problem) if value]
            yield [file.path, file.label, file.split, size, changed, *later]

    return SourceState(digest_of_rows(rows()), inodes.hexdigest()[:16])


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None
