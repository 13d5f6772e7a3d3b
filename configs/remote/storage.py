"""Files in object storage, through fsspec: s3://bucket/photos, gs://bucket/labels.

Endpoint and credentials come from where the libraries look for them: variables such as
AWS_ENDPOINT_URL and AWS_PROFILE, their own files, and fsspec's (~/.config/fsspec).
"""

import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from configs.artifacts import whole_file
from configs.errors import StepFailed, UserError, failure_of

Value = TypeVar("Value")

SECONDS_TO_ANSWER = 60
"""A request without an answer by then has failed. Large files come in parts, one a request."""

PART_BYTES = 2**23

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Which extra of this package reads which kind of URL."""

TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
"""What storages call the time at which a file was written."""

REFUSED = (
    "NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "Forbidden",
    "Invalid Credentials",
)  # fmt: skip
"""What the libraries raise or say, besides PermissionError, without valid credentials."""


@dataclass(frozen=True)
class StoredFile:
    """A file in a storage.

    Attributes:
        name: relative to the folder that was listed.
        seconds: when it was written, since 1970; 0 where the storage does not say it.
    """

    name: str
    num_bytes: int
    seconds: int


class NotStored(UserError):
    """Nothing lies at a URL."""


def is_url(place: object) -> bool:
    """Whether a place is in a storage: s3://bucket/photos and the like."""
    scheme, colon, _ = str(place).partition("://")
    return bool(colon) and len(scheme) > 1 and scheme.replace("+", "").isalnum()


def joined(folder: str, name: str) -> str:
    """The URL of a file in a folder."""
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


def stored_files(folder: str, *, below: bool = True) -> Iterator[StoredFile]:
    """The files in a folder, folder by folder.

    Args:
        below: also those in the folders inside.

    Raises:
        NotStored: there is no such folder.
        UserError: there is no permission to read it.
        StepFailed: the storage does not answer.
    """
    system, root = _opened(folder)
    root = root.rstrip("/")
    _answered(folder, partial(_knock, system, root))
    remaining, num_entries = [root], 0
    while remaining:
        path = remaining.pop()
        # The list of a million files has a thousand pages, each of which is a request.
        with _explained(folder):
            entries = system.ls(path, detail=True)
        for entry in sorted(entries, key=lambda entry: str(entry["name"])):
            name = str(entry["name"]).rstrip("/")
            is_itself = name == path or not name.startswith(f"{path}/" if path else "")
            if is_itself:  # some tools store an empty file of the folder's own name
                continue
            num_entries += 1
            if entry["type"] == "directory":
                remaining += [name] if below else []
            else:
                inside = name[len(root) :].lstrip("/")
                yield StoredFile(inside, int(entry["size"] or 0), _seconds(entry))
    if not num_entries:
        raise NotStored(f"{folder} holds no files. Check the name of the bucket and the folder.")


def stored_file(url: str) -> StoredFile:
    """The file at a URL.

    Raises:
        UserError, StepFailed: as `stored_files`.
    """
    system, path = _opened(url)
    entry = _answered(url, partial(system.info, path))
    if entry["type"] == "directory":
        raise NotStored(f"{url} is a folder. Expected a file.")
    return StoredFile(PurePosixPath(path).name, int(entry["size"] or 0), _seconds(entry))


def read_stored(url: str) -> bytes:
    """The bytes of a small file.

    Raises:
        UserError, StepFailed: as `stored_files`.
    """
    system, path = _opened(url)
    return bytes(_answered(url, partial(system.cat_file, path)))


def fetch(url: str, target: Path) -> None:
    """Copy a file of any size from a storage; `target` is complete afterwards or absent.

    Raises:
        UserError, StepFailed: as `stored_files`.
    """
    system, path = _opened(url)
    source = _answered(url, partial(system.open, path, "rb", block_size=PART_BYTES))
    with source, whole_file(target) as unfinished, open(unfinished, "wb") as file:
        while part := _answered(url, partial(source.read, PART_BYTES)):
            file.write(part)


def put(source: Path, url: str) -> None:
    """Copy a file of any size to a storage, where it is complete afterwards or absent.

    Raises:
        UserError, StepFailed: as `stored_files`.
    """
    system, path = _opened(url)
    if _is_of_this_machine(system):
        _copy(source, Path(path))
        return
    target = _answered(url, partial(system.open, path, "wb", block_size=PART_BYTES))
    try:
        with open(source, "rb") as file:
            while part := file.read(PART_BYTES):
                _answered(url, partial(target.write, part))
    except BaseException:
        # What is neither closed nor discarded, Python would close, and the storage show half of it.
        target.closed = True
        with suppress(Exception):
            _answered(url, target.discard)
        raise
    _answered(url, target.close)  # before that, the storage shows nothing


def _is_of_this_machine(system: Any) -> bool:
    """Whether a file system is that of this machine."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def _copy(source: Path, target: Path) -> None:
    """Copy a file to a folder, which may be the one where it lies."""
    if target.exists() and target.samefile(source):
        return
    with whole_file(target) as unfinished:
        shutil.copyfile(source, unfinished)


def _knock(system: Any, path: str) -> None:
    """Wait until a storage answers anything. What its answer means, the next request will tell."""
    with suppress(Exception):
        system.info(path)


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        UserError: its library is not installed.
    """
    scheme = url.partition("://")[0]
    try:
        from fsspec import get_filesystem_class

        # Not url_to_fs: it takes "::" in a name for a chain of file systems.
        kind = get_filesystem_class(scheme)
        options = kind._get_kwargs_from_urls(url)
        system, path = kind(**options, use_listings_cache=False), kind._strip_protocol(url)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        advice = f"pip install 'potstill[{extra}]'" if extra else str(error)
        raise UserError(f"to read {url}, install one more package: {advice}") from None
    except ValueError as error:
        raise UserError(
            f"{url} cannot be read ({failure_of(error)}). Expected a folder of this machine, or a "
            "URL such as s3://bucket/photos."
        ) from None
    return system, str(path)


def _answered(url: str, ask: Callable[[], Value]) -> Value:
    """The answer of a storage, which comes in time.

    Raises:
        UserError, StepFailed: as `stored_files`.
    """
    answers: queue.Queue[tuple[Value | None, Exception | None]] = queue.Queue()

    def wait() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    # A thread of its own, because not every library has a limit. It does not hinder the end.
    threading.Thread(target=wait, daemon=True).start()
    with _explained(url):
        try:
            answer, error = answers.get(timeout=SECONDS_TO_ANSWER)
        except queue.Empty:
            raise TimeoutError(f"no answer in {SECONDS_TO_ANSWER} seconds") from None
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]  # None belongs to an error


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotStored(
            f"{url} does not exist. Check the names of the bucket and of what lies in it."
        ) from None
    except Exception as error:
        kind = f"{type(error).__name__}: {error}"
        if isinstance(error, PermissionError) or any(word in kind for word in REFUSED):
            raise UserError(
                f"no permission for {url} ({failure_of(error)}). Give credentials that have it: "
                "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for s3://; "
                "GOOGLE_APPLICATION_CREDENTIALS for gs://."
            ) from None
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        at = f" at {endpoint} (AWS_ENDPOINT_URL)" if endpoint and url.startswith("s3") else ""
        raise StepFailed(
            f"{url} cannot be reached{at}: {failure_of(error)}. Check the address, the network and "
            "the endpoint, and give the same command again. What was copied is kept."
        ) from None


def _seconds(entry: Mapping[str, Any]) -> int:
    """When a file was written, from its entry in a listing."""
    time = next((entry[key] for key in TIMES if entry.get(key)), 0)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return int(time.timestamp() if isinstance(time, datetime) else time)
