"""Arrays that grow row by row, and need not fit into memory."""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

MAX_IN_MEMORY = 2**28
"""Rows of more bytes go to a temporary file, which the system removes when it is closed."""


class Rows:
    """Arrays of the same columns, one below the other."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._num_rows = 0
        self._num_bytes = 0

    def __len__(self) -> int:
        return self._num_rows

    def append(self, part: np.ndarray) -> None:
        """Add rows below the others."""
        self._num_rows += len(part)
        self._num_bytes += part.nbytes
        self._parts.append(part)
        if self._num_bytes > MAX_IN_MEMORY:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        for part in self._parts:
            self._file.write(np.ascontiguousarray(part).data)
        self._parts = [self._parts[-1][:0]]  # says what the columns are

    def array(self) -> np.ndarray:
        """All rows, (rows, ...); mapped from the disk, to be read only, if there are many.

        Nothing can be added afterwards. There must be a first part, which may be empty.
        """
        if self._file is None:
            return np.concatenate(self._parts)
        self._write()
        self._file.flush()
        columns, dtype = self._parts[0].shape[1:], self._parts[0].dtype
        mapped = np.memmap(self._file, dtype, "r", shape=(self._num_rows, *columns))
        return np.asarray(mapped)


def mapped_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed `.npz` file, mapped from the disk, to be read only.

    Raises:
        ValueError: an array holds objects, or is compressed.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{info.filename} in {path} is compressed")
            file.seek(info.header_offset + 26)
            name_bytes, extra_bytes = np.frombuffer(file.read(4), "<u2").tolist()
            file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
            arrays[info.filename.removesuffix(".npy")] = _mapped(path, file)
    return arrays


def _mapped(path: Path, file: IO[bytes]) -> np.ndarray:
    """The array whose `.npy` header begins where `file` stands."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{path} holds Python objects")
    if 0 in shape:
        return np.empty(shape, dtype)
    in_file = shape[::-1] if is_fortran else shape
    mapped = np.asarray(np.memmap(path, dtype, "r", offset=file.tell(), shape=in_file))
    return mapped.T if is_fortran else mapped
