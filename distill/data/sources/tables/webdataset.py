"""WebDataset shards as a source: tars of samples, whose photos are read where they lie."""

import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath

from configs.artifacts import digest, ending, whole_file
from configs.errors import UserError
from configs.progress import track
from configs.resume import Facts
from configs.schema.data import ColumnsConfig
from distill.data.sources.folders import is_junk, split_of_shard
from distill.data.sources.listing import SOURCES, ListedFile, Listing, Place
from distill.data.sources.tables.columns import Row, find_columns, names_a_label, row_of
from distill.data.sources.unpacked import read_listing, state_of, unpacked_folder, write_listing
from eval.metadata import class_name
from eval.packed_photos import span_path
from eval.photo_files import PHOTO_SUFFIXES

EXPECTED = (
    "Expected uncompressed tars of samples, as in train-000.tar with 0001.jpg and 0001.cls. Name "
    "their folder, or a pattern such as 'webdataset:shards/train-{000..009}.tar'."
)
PACKED = (".gz", ".bz2", ".xz", ".tgz", ".zst")
LABEL_KINDS = ("cls", "json", "txt")
"""Which members name the class of a sample, the surest first."""

MAX_LABEL_BYTES, MAX_TEXT_LABEL = 2**20, 100
"""A text of more characters is a caption."""

CLASS_FILES = ("classnames.txt", "classes.txt", "labels.txt")
MAX_PHOTO_BYTES = 2**30


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, split as WebDataset does at the first dot, and its place."""

    key: str
    kind: str
    name: str
    offset: int
    num_bytes: int


@SOURCES.add(
    named="a folder of tars, or a pattern such as shards/train-{000..009}.tar",
    reads=("columns", "group.column"),
)
def webdataset(place: Place) -> Listing:
    """Tars in which members of one name are a sample: a photo, and `.cls`, `.json` or `.txt`.

    The name of a tar or of its folder says its split: train-000.tar. A photo without a member that
    names its class is of the class that its folder in the tar names, or has no label.
    """
    shards = _shards(place)
    root = Path(os.path.commonpath([shard.parent.resolve() for shard in shards]))
    # A shard that is a link keeps its name, which says its split.
    names = [(shard.parent.resolve() / shard.name).relative_to(root).as_posix() for shard in shards]
    columns = (place.columns or ColumnsConfig()).model_dump()
    states = {
        name: {**state_of(root / name), "inode_changed": (root / name).stat().st_ctime_ns}
        for name in names
    }
    # What is read of a sample. Without a group it is called as older versions called it.
    read = {**columns, "group": place.group_column} if place.group_column else columns
    indices = {name: f"{digest([name, state, read])}.csv" for name, state in states.items()}
    # `photo` names a kind of member here, and no key of the `.json` members.
    in_json = replace(place, columns=ColumnsConfig(**{**columns, "photo": None}))

    def write(folder: Path) -> Facts:
        with track("shards", len(names)) as advance:
            for number, name in enumerate(names, 1):
                _write_index(folder / indices[name], root / name, name, in_json, columns["photo"])
                advance(number)
        return {"num_shards": len(names)}

    folder = unpacked_folder(place.run_data, {"webdataset": states, "columns": read}, write)
    files = (file for name in names for file in read_listing(folder / indices[name]))
    listed = _named(files, _class_names(root))
    if not listed:
        raise UserError(f"{len(names)} tar(s) as {names[0]} hold no photo. {EXPECTED}")
    return Listing(root, listed)


def _shards(place: Place) -> list[Path]:
    """The tars that a path or a pattern names, in the order of their names.

    Raises:
        UserError: there are none, or one is compressed.
    """
    text = str(place.path) if place.path is not None else place.name
    if not text:
        raise UserError(f"data.source=webdataset names no tars. {EXPECTED}")
    shards: list[Path] = []
    for name in _expanded(text):
        path = Path(name).expanduser()
        if path.is_dir():
            shards += sorted(path.rglob("*.tar*"))
        elif path.exists():
            shards.append(path)
        elif set(name) & set("*?["):
            base = Path(path.anchor) if path.is_absolute() else Path()
            shards += sorted(base.glob(str(path.relative_to(path.anchor))))
        else:
            raise UserError(f"{name} does not exist. {EXPECTED}")
    shards = [shard for shard in shards if shard.is_file() and not is_junk(shard.name)]
    packed = [shard for shard in shards if ending(shard) in PACKED]
    if packed:
        raise UserError(
            f"{packed[0]} is compressed, so no photo in it can be read by itself. Unpack it "
            f"(gunzip {packed[0].name}): photos hardly shrink."
        )
    if not shards:
        raise UserError(f"{text} names no tar. {EXPECTED}")
    return shards


def _expanded(pattern: str) -> list[str]:
    """`a-{000..009}.tar` and `{train,val}.tar` as a shell expands them."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if match[3] is not None:
        parts = match[3].split(",")
    else:
        first, last = int(match[1]), int(match[2])
        if last - first >= 10**6:
            raise UserError(f"{pattern} names {last - first + 1} tars. Expected fewer.")
        parts = [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for part in parts for name in _expanded(before + part + after)]


def _write_index(
    target: Path, shard: Path, name: str, place: Place, photo_kind: str | None
) -> None:
    """List the photos of a tar, unless an earlier scan did and the tar is the same."""
    if target.exists():
        return
    earlier = next(target.parent.parent.glob(f"*/{target.name}"), None)
    if earlier is None:
        write_listing(target, _photos(shard, name, place, photo_kind))
        return
    with whole_file(target) as unfinished:
        shutil.copyfile(earlier, unfinished)


def _photos(shard: Path, name: str, place: Place, photo_kind: str | None) -> Iterator[ListedFile]:
    split = split_of_shard(name)
    with open(shard, "rb") as content:
        for _, sample in groupby(_members(shard), key=lambda member: member.key):
            members = {member.kind.lower(): member for member in sample}
            photo = _photo_of(members, photo_kind)
            if photo is None:
                continue
            texts = {
                kind: os.pread(content.fileno(), members[kind].num_bytes, members[kind].offset)
                for kind in LABEL_KINDS
                if kind in members and members[kind].num_bytes <= MAX_LABEL_BYTES
            }
            yield _listed(name, photo, texts, split, place)


def _members(path: Path) -> Iterator[Member]:
    """The files of a tar in their order, none of them in memory.

    Raises:
        UserError: it is damaged, compressed or cut short.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would remember every member
                if entry.size < 0 or tar.offset <= entry.offset:  # tarfile would go round for ever
                    raise tarfile.ReadError(f"a member of {entry.size} bytes at {entry.offset}")
                parts = PurePosixPath(entry.name).parts
                # Links, devices and sparse files have no bytes of their own to read.
                if not entry.isreg() or entry.issparse() or not parts or is_junk(parts[-1]):
                    continue
                stem, _, kind = parts[-1].partition(".")
                key = "/".join((*parts[:-1], stem))
                yield Member(key, kind, entry.name, entry.offset_data, entry.size)
            # tarfile takes whatever is no header for the end, which is a block of zeros.
            end: int = tar.offset
            with open(path, "rb") as file:
                file.seek(end)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"damaged or cut short at byte {end}")
    except (tarfile.TarError, EOFError, UnicodeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} cannot be read as a tar: {error}. {EXPECTED}") from None


def _photo_of(members: Mapping[str, Member], chosen: str | None) -> Member | None:
    """The photo of a sample: the member that `data.columns.photo` names, or the plainest one."""
    if chosen is not None:
        return members.get(chosen.lower())
    photos = [kind for kind in members if f".{kind.rpartition('.')[2]}" in PHOTO_SUFFIXES]
    return members[min(photos, key=lambda kind: kind.count("."))] if photos else None


def _listed(
    shard: str, photo: Member, texts: Mapping[str, bytes], split: str | None, place: Place
) -> ListedFile:
    # The name is written into paths, so it stays below the tar and on one line.
    parts = [re.sub(r"[^\w .()+-]+", "-", part) for part in PurePosixPath(photo.name).parts]
    name = "/".join(part for part in parts if part.strip(".-"))
    path = span_path(shard, photo.offset, photo.num_bytes, name)
    try:
        if photo.num_bytes > MAX_PHOTO_BYTES:
            raise ValueError(f"{photo.num_bytes} bytes are too many for a photo")
        row = _row(photo, texts, split, place)
    except (UnicodeError, ValueError, RecursionError) as error:
        row = Row("", split, "", f"this sample cannot be read: {error}")
    return ListedFile(path, row.label, row.split, row.group, problem=row.problem)


def _row(photo: Member, texts: Mapping[str, bytes], split: str | None, place: Place) -> Row:
    """What a sample says of its photo: `.cls` first, then `.json`, then `.txt` and its folder."""
    values = json.loads(texts["json"]) if "json" in texts else {}
    values = values if isinstance(values, dict) else {}
    label = None  # the one of the usual names, or of `data.columns.label`
    if "cls" in texts:
        label, values["cls"] = "cls", texts["cls"].decode()
    elif not (place.columns and place.columns.label) and not names_a_label(values):
        caption = texts.get("txt", b"").decode().strip()
        is_class = caption and len(caption) <= MAX_TEXT_LABEL and "\n" not in caption
        folder = PurePosixPath(photo.name).parent.name
        label, values["folder"] = "folder", caption if is_class else folder.removeprefix("..")
    columns = find_columns([*values, "photo"], place, photo.name, photo="photo", label=label)
    if not isinstance(values[columns.label], str | int | float | None):
        raise ValueError(f"{columns.label} is neither a text nor a number")
    return row_of(columns, values, photo.name, split)


def _named(files: Iterator[ListedFile], names: list[str]) -> list[ListedFile]:
    """The files with the names of their classes where the tars number them.

    Without names, numbers get as many digits: 2 comes before 10 in the order of names, too.
    """
    listed = list(files)
    labels = {file.label for file in listed} - {""}
    if not labels or not all(label.isdecimal() for label in labels):
        return listed
    width = max(map(len, labels))
    new = {label: label.zfill(width) for label in labels}
    new |= {label: names[int(label)] for label in labels if int(label) < len(names)}
    return [replace(file, label=new.get(file.label, file.label)) for file in listed]


def _class_names(root: Path) -> list[str]:
    """The names of the classes 0, 1, ..., from a file beside the tars; [] if there is none."""
    for name in CLASS_FILES:
        if (root / name).is_file():
            lines = (root / name).read_text(encoding="utf-8", errors="replace").splitlines()
            return [class_name(line.strip()) for line in lines if line.strip()]
    return []
