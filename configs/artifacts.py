"""Files on disk that are whole or absent, and the digests that name them."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import UserError


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that name a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; renamed to it when the block ends well, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a killed process left; none that lives writes this file, for steps are locked.
    for left in path.parent.glob(f".unfinished-*-{glob.escape(path.name)}"):
        left.unlink(missing_ok=True)
    # The ending stays: Keras and others choose the format by it.
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one of the run's own JSON files.

    Raises:
        UserError: the file is missing, or something else than a whole JSON document.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing. Run the step that writes it.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Delete it and run again.") from None
