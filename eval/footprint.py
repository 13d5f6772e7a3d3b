"""The size of a file on disk and in a download."""

import zlib
from pathlib import Path


def file_bytes(path: Path) -> int:
    """Size of a file in bytes."""
    return path.stat().st_size


def zip_bytes(path: Path) -> int:
    """Size after deflate at its highest level: by this much the package in an app store grows."""
    compressor = zlib.compressobj(9)
    total = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())
