"""A ZIP or tar archive of folders as a source. Nothing is written outside of the run directory."""

import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from configs.artifacts import errors_name, unfinished_name
from configs.errors import UserError
from configs.resume import Facts
from distill.data.sources.folder import folder
from distill.data.sources.folders import folders_in, is_flat, is_junk, split_of_name
from distill.data.sources.listing import SOURCES, Listing, Place
from distill.data.sources.unpacked import finish, state_of, unpacked_folder

LEAST_LIMIT_BYTES = 2**30
MAX_RATIO = 100
"""Photos hardly shrink in an archive. One that grows a hundredfold is an attack."""

MAX_NAME_BYTES = 255

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError,
    RuntimeError, NotImplementedError, UnicodeError,
)  # fmt: skip
"""What is raised for archives that are damaged, encrypted or packed in an unknown way."""


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        kind: "file", "folder" or what else it is, in words.
        open: opens its content; valid until the next member is asked for.
    """

    name: str
    num_bytes: int
    kind: str
    open: Callable[[], IO[bytes]]


@SOURCES.add(endings=(".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"))
def archive(place: Place) -> Listing:
    """An archive of a folder with one folder per class, or with split folders of them."""
    path = place.file("an archive of a folder with one folder per class (.zip, .tar, .tar.gz)")
    inputs = {"archive": state_of(path)}
    root = unpacked_folder(place.run_data, inputs, partial(_unpack, path))
    inner = root
    while len(names := folders_in(inner)) == 1 and not is_flat(inner / names[0]):
        if split_of_name(names[0]):
            break
        inner /= names[0]
    try:
        return folder(Place(inner, has_groups=place.has_groups))
    except UserError as error:
        raise UserError(str(error).replace(str(root), path.name)) from None


def _unpack(path: Path, root: Path) -> Facts:
    """Check all members, then write them."""
    num_bytes = _check(path, root)
    num_files = 0
    with _readable(path):
        for member, name in _files(path):
            num_files += 1
            if not (root / name).exists():
                _write(member, root / name)
    return {"num_files": num_files, "unpacked_bytes": num_bytes}


def _write(member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(unfinished_name("photo", os.getpid()))
    try:
        with errors_name(target):
            with member.open() as content, open(unfinished, "wb") as file:
                shutil.copyfileobj(content, file)
            finish(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _check(path: Path, root: Path) -> int:
    """The bytes that will be written.

    Raises:
        UserError: a member would be written elsewhere, is no file, or they are too large.
    """
    files: set[str] = set()
    parents: set[str] = set()
    num_bytes = 0
    free = shutil.disk_usage(root).free
    limit = min(max(MAX_RATIO * path.stat().st_size, LEAST_LIMIT_BYTES), free)
    for member, name in _files(path):
        num_bytes += member.num_bytes
        if num_bytes > limit:
            reason = "the disk has room for" if limit == free else "an archive of this size may be"
            raise UserError(
                f"{path} is larger than {reason} when it is unpacked: more than "
                f"{limit / 2**20:,.0f} MiB. If you trust it, unpack it yourself and name the "
                "folder."
            )
        files.add(name)
        parents |= {parent.as_posix() for parent in PurePosixPath(name).parents}
    if both := sorted(files & parents):
        raise UserError(f"{path} holds {both[0]} as a file and as a folder. Make it anew.")
    return num_bytes


def _files(path: Path) -> Iterator[tuple[Member, str]]:
    """Every file to unpack, with its path below the folder that it is written to.

    Raises:
        UserError: the archive is damaged, or a member is not allowed.
    """
    with _readable(path):
        for member in _members(path):
            name = _safe_name(path, member)
            if member.kind == "folder" or any(map(is_junk, PurePosixPath(name).parts)):
                continue
            if member.kind != "file":
                raise UserError(
                    f"{path} holds {member.name!r}, which is {member.kind}. Expected only files "
                    "and folders. Nothing was unpacked. Make the archive anew, of photos."
                )
            yield member, name


def _safe_name(path: Path, member: Member) -> str:
    """The name of a member as a path below a folder.

    Raises:
        UserError: it would lie outside of that folder, or no file can have it.
    """
    name = PurePosixPath(member.name.replace("\\", "/"))  # as old tools for Windows write it
    is_outside = name.is_absolute() or ".." in name.parts or re.match(r"[A-Za-z]:", str(name))
    is_no_name = "\0" in str(name) or any(
        len(os.fsencode(part)) > MAX_NAME_BYTES for part in name.parts
    )
    if is_outside or is_no_name:
        reason = "no file can have" if is_no_name else "lies outside of its folder"
        raise UserError(
            f"{path} holds a file of the name {member.name[:200]!r}, which {reason}. Nothing was "
            "unpacked. Make the archive anew, of a folder with one folder per class."
        )
    return name.as_posix()


def _members(path: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                kind = "folder" if info.is_dir() else "file"
                if stat.S_ISLNK(info.external_attr >> 16):
                    kind = "a link"
                yield Member(info.filename, info.file_size, kind, partial(file.open, info))
        return
    with tarfile.open(path, "r|*") as tar:
        for entry in tar:
            kind = "folder" if entry.isdir() else "file" if entry.isreg() else "a device"
            if entry.issym() or entry.islnk():
                kind = "a link"
            yield Member(entry.name, entry.size, kind, partial(_tar_content, tar, entry))
            tar.members = []  # type: ignore[attr-defined]  # it would remember every member


def _tar_content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(entry)
    assert content is not None, "a member that is no file"
    return content


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        reason = "is encrypted" if "password" in str(error) else f"cannot be read: {error}"
        raise UserError(
            f"{path} {reason}. Expected a ZIP or tar archive of photos. Make it anew, or unpack it "
            "yourself and name the folder."
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{path} is damaged: {error}. Make the archive anew.") from None
