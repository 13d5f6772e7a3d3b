"""Files on disk that are whole or absent, and the digests that name them."""

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from configs.errors import UserError


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that name a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unfinished_name(name: str, process: int) -> str:
    """What a file is called while a process of this machine writes it.

    The name stays at the end: Keras and others choose the format by the ending.
    """
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return f".unfinished-{host}-{process}-{name}"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; renamed to it when the block ends well, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_unfinished(path)
    unfinished = path.with_name(unfinished_name(path.name, os.getpid()))
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _clear_unfinished(path: Path) -> None:
    """Remove what killed processes of this machine left of a file."""
    before, after = unfinished_name(path.name, 0).split("-0-", 1)
    pattern = re.compile(rf"{re.escape(before)}-(\d+)-{re.escape(after)}")
    for name in os.listdir(path.parent):
        match = pattern.fullmatch(name)
        if match and not psutil.pid_exists(int(match[1])):
            path.with_name(name).unlink(missing_ok=True)


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
