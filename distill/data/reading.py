"""Files of a source, opened: which are photos, and one photo for each content."""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from configs.artifacts import ending, file_sha256
from configs.progress import track
from distill.data.manifest import SPLITS, UNLABELLED, Photo, Skipped
from distill.data.sources.listing import ListedFile, Listing
from distill.data.splitting.near_duplicates import thumbnail
from distill.data.splitting.rule import SplitRule
from eval.photo_files import PHOTO_SUFFIXES, UnreadablePhoto, UnreadKind, decoded_photo


@dataclass(frozen=True)
class Candidate:
    """A readable photo, before files with the same content are compared.

    Attributes:
        has_split_folder: its source names its split.
        thumbnail: see `thumbnail` of splitting/near_duplicates.py; None if nobody asked for it.
    """

    photo: Photo
    has_split_folder: bool
    thumbnail: bytes | None = None


def read_all(
    listing: Listing, rule: SplitRule, *, thumbnails: bool = False
) -> tuple[list[Candidate], list[Skipped]]:
    """Open every file.

    Args:
        thumbnails: whether to keep thumbnails, of 1 kB each.
    """
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    with ThreadPoolExecutor() as pool, track("photos", len(listing.files)) as advance:
        # A file in the queue of the pool takes 2 kB of memory, so they come in parts.
        parts = (listing.files[i : i + 1024] for i in range(0, len(listing.files), 1024))
        read = partial(_read, listing.root, thumbnails)
        results = (result for part in parts for result in pool.map(read, part))
        for number, (result, file) in enumerate(zip(results, listing.files, strict=True), 1):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                photo, small = result
                split = file.split or rule.split_of(photo.sha256)
                photo = replace(photo, split=split)
                candidates.append(Candidate(photo, file.split is not None, small))
            advance(number, f"{len(skipped)} skipped")
    return candidates, skipped


def _read(
    root: Path, want_thumbnail: bool, file: ListedFile
) -> tuple[Photo, bytes | None] | Skipped:
    if file.problem:
        return Skipped(file.source_name, file.problem, is_lost_photo=True)
    path = root / file.path
    try:
        file.path.encode("utf-8")
    except UnicodeEncodeError:
        readable = file.path.encode("utf-8", "backslashreplace").decode()
        return Skipped(readable, "file name is not UTF-8", is_lost_photo=True)
    if ending(path) not in PHOTO_SUFFIXES:
        return Skipped(file.path, f"not a photo ({ending(path) or 'no ending'})")
    try:
        with decoded_photo(path) as decoded:
            width, height = decoded.width, decoded.height
            small = thumbnail(decoded.image) if want_thumbnail else None
        sha256 = file_sha256(path)
    except UnreadablePhoto as error:
        is_kind = isinstance(error, UnreadKind)
        return Skipped(file.path, str(error), is_lost_photo=True, is_unread_kind=is_kind)
    except OSError as error:
        return Skipped(file.path, error.strerror or str(error), is_lost_photo=True)
    photo = Photo(sha256[:16], file.path, file.label, "", width, height, sha256, file.group)
    return photo, small


def without_duplicates(
    candidates: Iterable[Candidate],
) -> tuple[list[Candidate], list[Skipped]]:
    """One photo for each content.

    A photo under two labels is not used, because nobody knows which label is right. Of a photo in
    two splits the test photo is used, then the validation photo, so that nothing is tested that
    was learned. A photo without a label is used last.
    """
    order = (UNLABELLED, *SPLITS)
    same_content: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        same_content[candidate.photo.sha256].append(candidate)
    unique, skipped = [], []
    for group in same_content.values():
        group.sort(key=lambda c: (-order.index(c.photo.split), not c.has_split_folder))
        first, *others = [candidate.photo for candidate in group]
        labels = sorted({photo.label for photo in (first, *others)} - {""})
        if len(labels) > 1:
            reason = f"the same photo under {' and '.join(labels)}"
            skipped += [Skipped(photo.path, reason) for photo in (first, *others)]
            continue
        unique.append(group[0])
        skipped += [Skipped(photo.path, f"the same photo as {first.path}") for photo in others]
    return unique, skipped
