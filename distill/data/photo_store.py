"""Decoded photos, stored in memory and then on disk as far as they fit."""

import math
import os
import shutil
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import numpy as np

from configs.process.memory import free_memory
from eval.photo_files import decode_photo

SHARE_OF_FREE_SPACE = 0.25
"""Of the memory, and of the disk, that is free when the first photo is stored. All stores that are
open at the same time share it."""

SIDE_BITS = 32
"""Of the height and the width of a photo, where both are stored in one number."""


class PhotoStore:
    """Decoded photos by their id, for all models that one process trains.

    Teacher, student and control share a store: a photo is decoded once, and only one share of the
    memory is taken. Whoever makes the store uses it in a `with` block, which frees it at the end.

    Args:
        largest_image: the largest input size of the models, in pixels. Photos are shrunk to what a
            crop can show at that size.
        overflow_to: a folder on the disk that takes photos when memory is full.
        num_stores: that are open at the same time, in as many processes. They share the space.
    """

    def __init__(
        self, largest_image: int, overflow_to: Path | None = None, *, num_stores: int = 1
    ) -> None:
        # Twice the input: a crop of a quarter of the area still has a pixel for every input pixel.
        self._max_short_side = 2 * largest_image
        self._in_memory: dict[str, np.ndarray] = {}
        self._bytes_left: int | None = None
        self._being_decoded: dict[str, Future[np.ndarray]] = {}
        self._lock = threading.Lock()
        self._share = SHARE_OF_FREE_SPACE / num_stores
        self._on_disk = None if overflow_to is None else _DiskStore(overflow_to, self._share)

    def photo(self, photo_id: str, path: Path) -> np.ndarray:
        """The pixels of a photo: uint8, (height, width, 3).

        Threads that ask for the same photo at the same time, for several views of it, share it.
        """
        photo = self._stored(photo_id)
        if photo is not None:
            return photo
        with self._lock:
            decoding = self._being_decoded.get(photo_id)
            is_ours = decoding is None
            if decoding is None:
                decoding = self._being_decoded[photo_id] = Future()
        if is_ours:
            try:
                # Another thread may have stored it since we looked.
                photo = self._stored(photo_id)
                if photo is None:
                    photo = decode_photo(path, self._max_short_side)
                    self._put(photo_id, photo)
                decoding.set_result(photo)
            except BaseException as error:
                decoding.set_exception(error)
            finally:
                with self._lock:
                    del self._being_decoded[photo_id]
        return decoding.result()

    def _stored(self, photo_id: str) -> np.ndarray | None:
        photo = self._in_memory.get(photo_id)
        if photo is None and self._on_disk is not None:
            photo = self._on_disk.get(photo_id)
        return photo

    def _put(self, photo_id: str, photo: np.ndarray) -> None:
        with self._lock:
            if self._bytes_left is None:
                self._bytes_left = int(free_memory() * self._share)
            fits = photo.nbytes <= self._bytes_left
            if fits:
                self._bytes_left -= photo.nbytes
                self._in_memory[photo_id] = photo
        if not fits and self._on_disk is not None:
            self._on_disk.put(photo_id, photo)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Garbage collection would not free it: TensorFlow keeps every Python function that a
        # pipeline calls, and so the store behind it, until the process ends.
        with self._lock:
            self._bytes_left = 0
            self._in_memory.clear()
        if self._on_disk is not None:
            self._on_disk.empty()


class _DiskStore:
    """Arrays in a file without a name, which the system removes when the process ends."""

    def __init__(self, folder: Path, share: float) -> None:
        self._folder = folder
        self._share = share
        self._file: int | None = None
        # Start, height and width in one number: a tuple of them takes 200 bytes a photo more.
        self._places: dict[str, int] = {}
        self._end = 0
        self._bytes_left = 0
        self._lock = threading.Lock()
        self._is_emptied = False

    def put(self, name: str, photo: np.ndarray) -> None:
        """Store an array, unless the space is used up."""
        with self._lock:
            if self._is_emptied:
                return
            if self._file is None:
                self._open()
            if photo.nbytes > self._bytes_left:
                return
            start = self._end
            self._end += photo.nbytes
            self._bytes_left -= photo.nbytes
        assert self._file is not None
        try:
            written = os.pwrite(self._file, np.ascontiguousarray(photo).data, start)
        except OSError:  # another program filled the disk: the photo is decoded again
            self._bytes_left = 0
            return
        if written == photo.nbytes:
            height, width, _ = photo.shape
            self._places[name] = (start << SIDE_BITS | height) << SIDE_BITS | width

    def _open(self) -> None:
        """Make the file. On a disk that takes none, nothing is stored."""
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                self._file = os.dup(file.fileno())
            self._bytes_left = int(shutil.disk_usage(self._folder).free * self._share)
        except OSError:
            self._bytes_left = 0

    def get(self, name: str) -> np.ndarray | None:
        """The array of this name, or None."""
        place = self._places.get(name)
        if place is None:
            return None
        assert self._file is not None
        side = (1 << SIDE_BITS) - 1
        start, height, width = place >> 2 * SIDE_BITS, place >> SIDE_BITS & side, place & side
        shape = height, width, 3
        content = os.pread(self._file, math.prod(shape), start)
        if len(content) < math.prod(shape):  # the store was emptied meanwhile
            return None
        return np.frombuffer(content, "uint8").reshape(shape)

    def empty(self) -> None:
        """Free the space on the disk, and store nothing more.

        The file stays open, because a thread of an abandoned pipeline may still write to it.
        """
        with self._lock:
            self._is_emptied = True
            self._places.clear()
            if self._file is not None:
                os.ftruncate(self._file, 0)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)
