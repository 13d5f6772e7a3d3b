"""Paths that a user names: absolute, and writable as text."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from configs.remote.storage import is_url


def _check_text(value: Any) -> Any:
    if not isinstance(value, str | Path):
        raise ValueError("expected a path; put a name that YAML does not read as text in quotes")
    return value


def _absolute(path: Path) -> Path:
    """The same path from the root, so that a run means the same wherever a command starts."""
    path = path.resolve()
    if not is_utf8(path):
        raise ValueError("the name is not valid UTF-8; rename the file or folder")
    return path


def is_utf8(path: Path) -> bool:
    """Whether a path can be written into a text file."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # Python reads bytes that are not UTF-8 as lone surrogates
        return False
    return True


def _place(value: Any) -> str | Path:
    """A URL as it stands, or an absolute path."""
    if is_url(_check_text(value)):
        return str(value).rstrip("/")
    return _absolute(Path(value))


UserPlace = Annotated[str | Path, BeforeValidator(_place)]
"""A path, or the URL of a file or folder in object storage: s3://bucket/photos."""

UserPath = Annotated[Path, BeforeValidator(_check_text), AfterValidator(_absolute)]
