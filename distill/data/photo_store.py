"""Decoded photos, kept in memory and then on disk as far as they fit."""

import math
import os
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil

from distill.data.manifest import Examples
from eval.images import decode_photo

SHARE_OF_FREE_SPACE = 0.25
"""Of the memory, and of the disk, that is free when a store is made."""


class PhotoStore:
    """Decoded photos by their index.

    Photos are shrunk to `max_short_side` as they are decoded: what a crop can show at the size
    of the largest model, and no more.
    """

    def __init__(
        self, examples: Examples, max_short_side: int, overflow_to: Path | None = None
    ) -> None:
        self._paths = examples.paths
        self._max_short_side = max_short_side
        self._kept: dict[int, np.ndarray] = {}
        self._bytes_left = int(psutil.virtual_memory().available * SHARE_OF_FREE_SPACE)
        self._overflow = None if overflow_to is None else _DiskStore(overflow_to)

    def __call__(self, index: np.int64) -> np.ndarray:
        """uint8, (height, width, 3)."""
        number = int(index)
        photo = self._kept.get(number)
        if photo is None and self._overflow is not None:
            photo = self._overflow.get(number)
        if photo is None:
            photo = decode_photo(self._paths[number], self._max_short_side)
            self._keep(number, photo)
        return photo

    def _keep(self, number: int, photo: np.ndarray) -> None:
        if photo.nbytes <= self._bytes_left:
            self._bytes_left -= photo.nbytes
            self._kept[number] = photo
        elif self._overflow is not None:
            self._overflow.put(number, photo)


_kept: dict[tuple[object, ...], PhotoStore] = {}


def shared_store(
    examples: Examples, max_short_side: int, overflow_to: Path | None = None
) -> PhotoStore:
    """The store of these photos.

    The last one is kept: teacher, student and control of a run decode a photo once, and do not
    take a share of the memory each.
    """
    key = tuple(examples.ids), tuple(examples.paths), max_short_side, overflow_to
    if key not in _kept:
        _kept.clear()
        _kept[key] = PhotoStore(examples, max_short_side, overflow_to)
    return _kept[key]


class _DiskStore:
    """Arrays in a nameless file, which the system removes with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None
        self._places: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._end = 0
        self._bytes_left = int(shutil.disk_usage(folder).free * SHARE_OF_FREE_SPACE)
        self._lock = threading.Lock()

    def put(self, number: int, photo: np.ndarray) -> None:
        """Keep an array, unless the space is used up."""
        with self._lock:
            if photo.nbytes > self._bytes_left:
                return
            if self._file is None:
                with tempfile.TemporaryFile(dir=self._folder) as file:
                    self._file = os.dup(file.fileno())
            start = self._end
            self._end += photo.nbytes
            self._bytes_left -= photo.nbytes
        try:
            written = os.pwrite(self._file, np.ascontiguousarray(photo).data, start)
        except OSError:  # others have filled the disk: what is not kept is decoded again
            self._bytes_left = 0
            return
        if written == photo.nbytes:
            self._places[number] = start, photo.shape

    def get(self, number: int) -> np.ndarray | None:
        """The array kept under this number, or None."""
        if number not in self._places:
            return None
        assert self._file is not None
        start, shape = self._places[number]
        content = os.pread(self._file, math.prod(shape), start)
        return np.frombuffer(content, "uint8").reshape(shape)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)
