"""Files of a source, opened: which are photos, and one photo for each content."""

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from configs.artifacts import ending, file_sha256
from configs.progress import track
from distill.data.manifest import SPLITS, UNLABELLED, Photo, Skipped
from distill.data.scanning.known import NOT_LOOKED_FOR, KnownPhotos, Learned, identity
from distill.data.sources.listing import ListedFile, Listing
from distill.data.splitting.near_duplicates import thumbnail
from distill.data.splitting.rule import SplitRule
from eval.packed_photos import LostPhoto, packed_photo
from eval.photo_files import (
    PHOTO_SUFFIXES,
    RAW_SUFFIXES,
    PhotoSource,
    UnreadablePhoto,
    UnreadKind,
    decoded_photo,
)

MAX_IN_MEMORY = 2**26
"""A file of more bytes is read twice, and never as a whole."""

FILES_OF_A_PART, FILES_OF_A_TASK = 1024, 16
"""A file in the queue of a pool takes 2 kB of memory, so they come in parts. A task takes 50 us."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A readable photo, before files with the same content are compared.

    Attributes:
        has_split_folder: its source names its split.
        thumbnail: as in `Learned`.
    """

    photo: Photo
    has_split_folder: bool
    thumbnail: int = NOT_LOOKED_FOR


@dataclass(frozen=True, slots=True)
class Found:
    """What was learned of a photo that was just read.

    Attributes:
        identity: None if the file changed while it was read.
        thumbnail: see `thumbnail` of splitting/near_duplicates.py.
    """

    width: int
    height: int
    sha256: str
    identity: tuple[int, ...] | None
    thumbnail: bytes | None


def read_all(
    listing: Listing, rule: SplitRule, known: KnownPhotos, *, thumbnails: bool = False
) -> tuple[list[Candidate], list[Skipped]]:
    """Open every file that is not known.

    Args:
        known: is asked for each file, and learns what is read.
        thumbnails: whether thumbnails are wanted, of 1 kB each.
    """
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    num_done = 0
    with ThreadPoolExecutor() as pool, track("photos", len(listing.files)) as advance:
        for start in range(0, len(listing.files), FILES_OF_A_PART):
            part = listing.files[start : start + FILES_OF_A_PART]
            results = _read_part(listing.root, part, known, pool, thumbnails=thumbnails)
            for file, result in zip(part, results, strict=True):
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    split = file.split or rule.split_of(result.sha256)
                    photo = Photo(
                        file.path, file.label, split, result.width, result.height, result.sha256,
                        file.group,
                    )  # fmt: skip
                    has_folder = file.split is not None
                    candidates.append(Candidate(photo, has_folder, result.thumbnail))
                num_done += 1
                advance(num_done, f"{len(skipped)} skipped")
    return candidates, skipped


def _read_part(
    root: Path,
    files: Sequence[ListedFile],
    known: KnownPhotos,
    pool: ThreadPoolExecutor,
    *,
    thumbnails: bool,
) -> Iterator[Learned | Skipped]:
    """What each of these files holds, in their order."""
    opened: list[ListedFile | Skipped] = []
    identities = []
    for file in files:
        state = _state(root, file)
        opened.append(state if isinstance(state, Skipped) else file)
        identities.append((0,) * 6 if isinstance(state, Skipped) else state)
    learned = known.find(identities, with_thumbnails=thumbnails)
    unread = [
        file
        for file, old in zip(opened, learned, strict=True)
        if old is None and not isinstance(file, Skipped)
    ]
    tasks = [unread[i : i + FILES_OF_A_TASK] for i in range(0, len(unread), FILES_OF_A_TASK)]
    read_now = (
        result
        for results in pool.map(lambda task: [_read(root, f, thumbnails) for f in task], tasks)
        for result in results
    )
    for listed, old in zip(opened, learned, strict=True):
        if isinstance(listed, Skipped):
            yield listed
        elif old is not None:
            yield old
        else:
            result = next(read_now)
            yield result if isinstance(result, Skipped) else _learn(known, result, thumbnails)


def _learn(known: KnownPhotos, photo: Found, has_thumbnail: bool) -> Learned:
    row = known.add_thumbnail(photo.thumbnail) if has_thumbnail else NOT_LOOKED_FOR
    learned = Learned(photo.width, photo.height, photo.sha256, row)
    if photo.identity is not None:
        known.add(photo.identity, learned)
    return learned


def _state(root: Path, file: ListedFile) -> tuple[int, ...] | Skipped:
    """The identity of a file, or why it is not opened at all."""
    if file.problem:
        return Skipped(file.source_name, file.problem, is_lost_photo=True)
    try:
        file.path.encode("utf-8")
    except UnicodeEncodeError:
        readable = file.path.encode("utf-8", "backslashreplace").decode()
        return Skipped(readable, "file name is not UTF-8", is_lost_photo=True)
    kind = ending(file.path)
    if kind not in PHOTO_SUFFIXES:
        return Skipped(file.path, f"not a photo ({kind or 'no ending'})", is_photo=False)
    path = os.path.join(root, file.path)
    packed = packed_photo(path)
    try:
        facts = os.stat(path if packed is None else packed.container)
    except OSError as error:
        return Skipped(file.path, error.strerror or str(error), is_lost_photo=True)
    if not stat.S_ISREG(facts.st_mode):
        return Skipped(file.path, "not a file, but a device or a pipe", is_lost_photo=True)
    return identity(facts, 0 if packed is None else packed.offset)


def _read(root: Path, file: ListedFile, want_thumbnail: bool) -> Found | Skipped:
    try:
        return _found(Path(root, file.path), want_thumbnail)
    except UnreadablePhoto as error:
        is_kind = isinstance(error, UnreadKind)
        return Skipped(file.path, str(error), is_lost_photo=True, is_unread_kind=is_kind)
    except PermissionError:
        return Skipped(file.path, "no permission to read it", is_lost_photo=True)
    except OSError as error:
        return Skipped(file.path, error.strerror or str(error), is_lost_photo=True)
    except LostPhoto as error:
        return Skipped(file.path, str(error), is_lost_photo=True)


def _found(path: Path, want_thumbnail: bool) -> Found:
    """Digest, size and thumbnail of the same bytes: a photo may be replaced at any moment."""
    packed = packed_photo(path)
    offset = 0 if packed is None else packed.offset
    with open(path if packed is None else packed.container, "rb", buffering=0) as file:
        before = identity(os.fstat(file.fileno()), offset)
        in_memory = packed is not None or os.fstat(file.fileno()).st_size <= MAX_IN_MEMORY
        content = b""
        if in_memory:
            content = file.readall() if packed is None else packed.read()
        is_raw = ending(path) in RAW_SUFFIXES  # told by the name alone
        source: PhotoSource = BytesIO(content) if in_memory and not is_raw else path
        with decoded_photo(source) as decoded:
            size = decoded.width, decoded.height
            small = thumbnail(decoded.image) if want_thumbnail else None
        sha256 = hashlib.sha256(content).hexdigest() if in_memory else file_sha256(path)
        is_same = identity(os.fstat(file.fileno()), offset) == before
    return Found(*size, sha256, before if is_same else None, small)


def without_duplicates(
    candidates: Sequence[Candidate],
) -> tuple[list[Candidate], list[Skipped]]:
    """One photo for each content.

    A photo under two labels is not used, because nobody knows which label is right. Of a photo in
    two splits the test photo is used, then the validation photo, so that nothing is tested that
    was learned. A photo without a label is used last.
    """
    seen: set[str] = set()
    several: set[str] = set()
    for candidate in candidates:
        sha256 = candidate.photo.sha256
        (several if sha256 in seen else seen).add(sha256)
    same_content: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.photo.sha256 in several:
            same_content[candidate.photo.sha256].append(candidate)
    unique: list[Candidate] = []
    skipped: list[Skipped] = []
    for candidate in candidates:
        if candidate.photo.sha256 not in several:
            unique.append(candidate)
        elif group := same_content.pop(candidate.photo.sha256, []):
            best, reasons = _best(group)
            unique += best
            skipped += reasons
    return unique, skipped


def _best(group: list[Candidate]) -> tuple[list[Candidate], list[Skipped]]:
    """The one candidate of a content that is used, if there is one; why the others are not."""
    order = (UNLABELLED, *SPLITS)
    group.sort(key=lambda c: (-order.index(c.photo.split), not c.has_split_folder))
    first, *others = [candidate.photo for candidate in group]
    labels = sorted({photo.label for photo in (first, *others)} - {""})
    if len(labels) > 1:
        reason = f"the same photo under {' and '.join(labels)}"
        return [], [Skipped(photo.path, reason) for photo in (first, *others)]
    return group[:1], [Skipped(p.path, f"the same photo as {first.path}") for p in others]
