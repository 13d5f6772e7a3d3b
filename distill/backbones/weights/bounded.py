"""A file that says what a reader may ask of it."""

import os
from typing import IO


class Within:
    """A file of which nobody asks for more than is left, because memory is taken beforehand."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._start = file, file.tell()
        self.size = file.seek(0, os.SEEK_END)
        self.rewind()
        self.readline = file.readline

    def rewind(self) -> None:
        """Go back to where it began."""
        self._file.seek(self._start)

    def read(self, num_bytes: int) -> bytes:
        """So many bytes; EOFError if there are fewer."""
        if num_bytes > self.size - self._file.tell():
            raise EOFError("it ends early")
        return self._file.read(num_bytes)
