"""From a source of photos to usable ones, each in its split."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from configs.artifacts import (
    digest,
    file_sha256,
)
from configs.errors import UserError
from configs.progress import track
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from configs.schema import DataConfig
from distill.data.manifest import (
    SPLITS,
    UNLABELLED,
    Examples,
    Photo,
    Skipped,
    make_examples,
    write_manifest,
)
from distill.data.sources import SOURCES, Listing, unlabelled_files
from distill.data.splits import carved
from eval.images import PHOTO_SUFFIXES, UnreadablePhoto, decode_photo

DEFAULTS = DataConfig()


def list_source(data: DataConfig, run: RunDir) -> tuple[Listing, str]:
    """The files of the source, and a digest of their names, sizes and times of change."""
    listing = SOURCES[data.source](data.path, run.photos_manifest.parent)
    if data.unlabelled is not None:
        further = [(path, "", UNLABELLED) for path in unlabelled_files(data.unlabelled)]
        listing = Listing(listing.root, [*listing.files, *further])
    stats = []
    for path, label, split in listing.files:
        stat = os.stat(listing.root / path) if os.path.exists(listing.root / path) else None
        stats.append([path, label, split, stat and stat.st_size, stat and stat.st_mtime_ns])
    return listing, digest(stats)


def scan(
    listing: Listing, *, validation: float, test: float, max_skipped: float
) -> tuple[list[Photo], list[Skipped]]:
    """Open every file; sort out what cannot serve; give each photo its split.

    Raises:
        UserError: too much had to be skipped, or what is left cannot train a classifier.
    """
    if validation + test >= 1:
        raise UserError(
            f"data.validation {validation} and data.test {test} leave nothing to train on. "
            "Their sum must be below 1."
        )
    opened: list[tuple[Photo, bool]] = []
    skipped: list[Skipped] = []
    with ThreadPoolExecutor() as pool, track("photos", len(listing.files)) as advance:
        jobs = pool.map(lambda file: _open(listing.root, *file[:2]), listing.files)
        for number, (result, file) in enumerate(zip(jobs, listing.files, strict=True), 1):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                split = file[2] or carved(listing, result.sha256, validation, test)
                opened.append((_with_split(result, split), file[2] is not None))
            advance(number, f"{len(skipped)} skipped")
    photos, doubles = _without_doubles(opened)
    skipped += doubles
    _check_enough(listing, photos, skipped, max_skipped)
    return photos, skipped


def _with_split(photo: Photo, split: str) -> Photo:
    return Photo(**{**photo.__dict__, "split": split})


def _open(root: Path, path: str, label: str) -> Photo | Skipped:
    full = root / path
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        readable = path.encode("utf-8", "backslashreplace").decode()
        return Skipped(readable, "file name is not UTF-8", unusable=True)
    if full.suffix.lower() not in PHOTO_SUFFIXES:
        return Skipped(path, f"not a photo ({full.suffix or 'no ending'})")
    try:
        height, width = decode_photo(full).shape[:2]
        sha256 = file_sha256(full)
    except UnreadablePhoto as error:
        return Skipped(path, str(error), unusable=True)
    except OSError as error:
        return Skipped(path, error.strerror or str(error), unusable=True)
    return Photo(sha256[:16], path, label, "", width, height, sha256)


def _without_doubles(opened: Iterable[tuple[Photo, bool]]) -> tuple[list[Photo], list[Skipped]]:
    """One photo for each content.

    Under two labels none is kept: nobody knows which one is right. Of one in train and one in
    a given validation or test folder the latter stays, so that nothing tested was learned; and
    one with a label stays before one without.
    """
    order = (UNLABELLED, *SPLITS)
    same: dict[str, list[tuple[Photo, bool]]] = defaultdict(list)
    for photo, given in opened:
        same[photo.sha256].append((photo, given))
    photos, skipped = [], []
    for group in same.values():
        group.sort(key=lambda member: (-order.index(member[0].split), not member[1]))
        members = [photo for photo, _ in group]
        labels = sorted({photo.label for photo in members} - {""})
        if len(labels) > 1:
            reason = f"the same photo under {' and '.join(labels)}"
            skipped += [Skipped(photo.path, reason) for photo in members]
            continue
        photos.append(members[0])
        skipped += [Skipped(p.path, f"the same photo as {members[0].path}") for p in members[1:]]
    return sorted(photos, key=lambda photo: photo.id), skipped


def _check_enough(
    listing: Listing, photos: list[Photo], skipped: list[Skipped], max_skipped: float
) -> None:
    unusable = [s for s in skipped if s.unusable]
    expected = len(photos) + len(unusable)
    if unusable and len(unusable) > max_skipped * expected:
        examples = "\n  ".join(f"{s.path}: {s.reason}" for s in unusable[:5])
        raise UserError(
            f"{len(unusable)} of {expected} photos in {listing.root} cannot be used, more than "
            f"data.max_skipped ({max_skipped:.0%}) allows:\n  {examples}\n"
            "Mend or remove them, or raise it: --set data.max_skipped=0.5"
        )
    count = Counter((photo.label, photo.split) for photo in photos)
    classes = sorted({label for _, label, _ in listing.files} - {""})
    usable = [name for name in classes if any(count[name, split] for split in SPLITS)]
    if len(usable) < 2:
        raise UserError(
            f"{listing.root} holds usable photos of {len(usable)} class(es) "
            f"({', '.join(usable) or 'none'}). A classifier needs at least two folders of photos."
        )
    for name in usable:
        if not count[name, "train"]:
            raise UserError(
                f"class {name!r} in {listing.root} has no photo to train on. Add photos of it "
                "(about ten at the least), or remove the folder."
            )
    for split in ("validation", "test"):
        if not any(count[name, split] for name in usable):
            raise UserError(
                f"the {split} split is empty: {len(photos)} photos are too few, or "
                f"data.{split} is too small. Add photos, or raise data.{split}."
            )


def data_step(run: RunDir, data: DataConfig) -> Step:
    """Scan and split the photos; done again when a file of the source came, went or changed."""
    listing, listed = list_source(data, run)
    config = data.model_dump(mode="json")

    def build(workspace: Workspace) -> Built:
        photos, skipped = scan(
            listing,
            validation=data.validation,
            test=data.test,
            max_skipped=data.max_skipped,
        )
        count = Counter(photo.split for photo in photos)
        return write_manifest(run, photos, skipped), {
            "root": str(listing.root.resolve()),
            "source": data.source,
            "classes": sorted({photo.label for photo in photos} - {""}),
            **{f"num_{split}": count[split] for split in (*SPLITS, UNLABELLED)},
            "num_skipped": len(skipped),
        }

    manifest = run.photos_manifest.with_suffix(".json")
    return Step("data", manifest, {"data": config, "listing": listed}, build)


def scan_folder(
    path: Path, *, validation: float = DEFAULTS.validation, test: float = DEFAULTS.test
) -> dict[str, Examples]:
    """Examples by split of a folder of photos that belongs to no run, split by the same rule."""
    listing = SOURCES["folder"](path, Path())
    photos, _ = scan(listing, validation=validation, test=test, max_skipped=DEFAULTS.max_skipped)
    classes = sorted({photo.label for photo in photos})
    return {
        split: make_examples((vars(p) for p in photos if p.split == split), path, classes)
        for split in SPLITS
    }
