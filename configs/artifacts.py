"""Files that are complete or absent, the digests that name them, and their endings."""

import csv
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from configs.errors import UserError


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that identify a JSON-like value, in any order of its keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_rows(rows: Iterable[Any]) -> str:
    """`digest` of the list of these rows, of which one at a time is in memory."""
    hashed, separator = hashlib.sha256(b"["), b""
    for row in rows:
        hashed.update(separator + json.dumps(row, sort_keys=True, default=str).encode())
        separator = b", "
    hashed.update(b"]")
    return hashed.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ending(path: Path | str) -> str:
    """The ending of a file's name in small letters, as in `.onnx`: MODEL.ONNX is an ONNX file too.

    Every file is told by this ending. `eval/devices/probe.py`, `eval/photo_files.py` and
    `compress/bundle/classify.py` have their own, because they are copied without this file.
    """
    return Path(path).suffix.lower()


MODEL_ENDINGS = (".keras", ".h5", ".hdf5")


def is_saved_model(path: Path | str) -> bool:
    """Whether a folder holds a model as TensorFlow writes it."""
    return Path(path, "saved_model.pb").is_file()


def is_keras_model(path: Path | str) -> bool:
    """Whether a path names a Keras model: by its ending, or a SavedModel folder."""
    return ending(path) in MODEL_ENDINGS or is_saved_model(path)


def path_sha256(path: Path) -> str:
    """The digest of a file, or of all files in a folder and their names."""
    if not path.is_dir():
        return file_sha256(path)
    files = [file for file in path.rglob("*") if file.is_file()]
    names = sorted(file.relative_to(path).as_posix() for file in files)
    listing = "".join(f"{file_sha256(path / name)} {name}\n" for name in names)
    return hashlib.sha256(listing.encode()).hexdigest()


def unfinished_name(name: str, process: int) -> str:
    """The temporary name of a file while a process of this machine writes it.

    It ends with the final name, because Keras and others choose the format by the ending.
    """
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return f".unfinished-{host}-{process}-{name}"


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """An `OSError` inside the block names `path`. One of a write to an open file names nothing."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, for a block that writes it.

    When the block ends, the file is renamed to `path`. When the block raises, it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_unfinished(path)
    unfinished = path.with_name(unfinished_name(path.name, os.getpid()))
    try:
        with errors_name(path):
            yield unfinished
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _clear_unfinished(path: Path) -> None:
    """Remove the temporary files that killed processes of this machine left beside `path`."""
    before, after = unfinished_name(path.name, 0).split("-0-", 1)
    pattern = re.compile(rf"{re.escape(before)}-(\d+)-{re.escape(after)}")
    for name in os.listdir(path.parent):
        match = pattern.fullmatch(name)
        if match and not psutil.pid_exists(int(match[1])):
            path.with_name(name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Write a table row by row, completely or not at all; returns the number of its rows."""
    num_rows = 0
    with whole_file(path) as target, open(target, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow(row)
            num_rows += 1
    return num_rows


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, completely or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file that Potstill wrote.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing. Run the step that writes it.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Delete it and run again.") from None
