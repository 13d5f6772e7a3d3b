"""What tests do with a bundle: unpack it, and run its code where this project is not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path


def unpacked(path: Path) -> Path:
    """The folder of a bundle, unpacked beside it."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(path.parent)
        (folder,) = {name.partition("/")[0] for name in archive.namelist()}
    return path.parent / folder


def run_outside(outside: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """A Python that sees the standard library and `outside`."""
    return subprocess.run(
        [sys.executable, "-S", "-s", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(outside)},
        cwd=outside,
        capture_output=True,
        text=True,
    )
