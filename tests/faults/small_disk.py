"""A small file system of its own, which can be filled: for root on Linux."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

FILLER = ".filler"


@contextmanager
def small_disk(folder: Path, *, kilobytes: int) -> Iterator[Path]:
    """A file system of this size, mounted at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kilobytes}k,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@cache
def can_mount() -> bool:
    """Whether this process may mount a file system."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        try:
            if subprocess.run(command, capture_output=True).returncode:
                return False
        except FileNotFoundError:
            return False
        subprocess.run(["umount", folder], check=True)
        return True


def fill(disk: Path) -> None:
    """Take all the space that is left."""
    with open(disk / FILLER, "ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Inside the block the disk is full."""
    fill(disk)
    try:
        yield
    finally:
        os.unlink(disk / FILLER)
