"""From a source of photos to usable ones, each in its split."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from configs.artifacts import digest, ending, file_sha256
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
from distill.data.sources import SOURCES, ListedFile, Listing, unlabelled_files
from distill.data.splits import SplitRule
from eval.photo_files import PHOTO_SUFFIXES, UnreadablePhoto, photo_size

DEFAULTS = DataConfig()


def data_step(run: RunDir, data: DataConfig) -> Step:
    """Scan and split the photos. A file that was added, removed or changed makes it stale."""
    listing, listing_digest = list_source(data, run)

    def build(workspace: Workspace) -> Built:
        rule = SplitRule(validation=data.validation, test=data.test)
        photos, skipped = scan(listing, rule, max_skipped=data.max_skipped)
        count = Counter(photo.split for photo in photos)
        return write_manifest(run, photos, skipped), {
            "root": str(listing.root.resolve()),
            "source": data.source,
            "classes": _class_names(photos),
            **{f"num_{split}": count[split] for split in (*SPLITS, UNLABELLED)},
            "num_skipped": len(skipped),
        }

    inputs = {"data": data.model_dump(mode="json"), "listing": listing_digest}
    return Step("data", run.photos_manifest.with_suffix(".json"), inputs, build)


def scan_folder(
    path: Path, *, validation: float = DEFAULTS.validation, test: float = DEFAULTS.test
) -> dict[str, Examples]:
    """Examples by split of a folder of photos that belongs to no run, by the same split rule."""
    listing = SOURCES["folder"](path, Path())
    rule = SplitRule(validation=validation, test=test)
    photos, _ = scan(listing, rule, max_skipped=DEFAULTS.max_skipped)
    classes = _class_names(photos)
    return {
        split: make_examples([photo for photo in photos if photo.split == split], path, classes)
        for split in SPLITS
    }


def list_source(data: DataConfig, run: RunDir) -> tuple[Listing, str]:
    """The files of the source, and a digest of their names, sizes and modification times."""
    listing = SOURCES[data.source](data.path, run.photos_manifest.parent)
    if data.unlabelled is not None:
        unlabelled = [
            ListedFile(path, "", UNLABELLED) for path in unlabelled_files(data.unlabelled)
        ]
        listing = replace(listing, files=[*listing.files, *unlabelled])
    rows = []
    for file in listing.files:
        path = listing.root / file.path
        stat = os.stat(path) if os.path.exists(path) else None
        size, changed = (stat.st_size, stat.st_mtime_ns) if stat else (None, None)
        rows.append([file.path, file.label, file.split, size, changed])
    return listing, digest(rows)


@dataclass(frozen=True)
class _Candidate:
    """A readable photo, before files with the same content are compared."""

    photo: Photo
    has_split_folder: bool


def scan(
    listing: Listing, rule: SplitRule, *, max_skipped: float
) -> tuple[list[Photo], list[Skipped]]:
    """Open every file, skip what cannot be used, and give each photo its split.

    Raises:
        UserError: too many photos are damaged, or the others cannot train a classifier.
    """
    if rule.validation + rule.test >= 1:
        raise UserError(
            f"data.validation {rule.validation} and data.test {rule.test} leave nothing to train "
            "on. Their sum must be below 1."
        )
    train_rule = rule.beside_folders(listing)
    candidates: list[_Candidate] = []
    skipped: list[Skipped] = []
    with ThreadPoolExecutor() as pool, track("photos", len(listing.files)) as advance:
        results = pool.map(lambda file: _read(listing.root, file), listing.files)
        for number, (result, file) in enumerate(zip(results, listing.files, strict=True), 1):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                split = file.split or train_rule.split_of(result.sha256)
                candidates.append(_Candidate(replace(result, split=split), file.split is not None))
            advance(number, f"{len(skipped)} skipped")
    photos, duplicates = _without_duplicates(candidates)
    skipped += duplicates
    _check_damaged(listing, photos, skipped, max_skipped)
    _check_classes(listing, photos)
    return photos, skipped


def _read(root: Path, file: ListedFile) -> Photo | Skipped:
    path = root / file.path
    try:
        file.path.encode("utf-8")
    except UnicodeEncodeError:
        readable = file.path.encode("utf-8", "backslashreplace").decode()
        return Skipped(readable, "file name is not UTF-8", is_damaged=True)
    if ending(path) not in PHOTO_SUFFIXES:
        return Skipped(file.path, f"not a photo ({ending(path) or 'no ending'})")
    try:
        width, height = photo_size(path)
        sha256 = file_sha256(path)
    except UnreadablePhoto as error:
        return Skipped(file.path, str(error), is_damaged=True)
    except OSError as error:
        return Skipped(file.path, error.strerror or str(error), is_damaged=True)
    return Photo(sha256[:16], file.path, file.label, "", width, height, sha256)


def _without_duplicates(
    candidates: Iterable[_Candidate],
) -> tuple[list[Photo], list[Skipped]]:
    """One photo for each content.

    A photo under two labels is not used, because nobody knows which label is right. Of a photo in
    two splits the test photo is used, then the validation photo, so that nothing is tested that
    was learned. A photo without a label is used last.
    """
    order = (UNLABELLED, *SPLITS)
    same_content: dict[str, list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        same_content[candidate.photo.sha256].append(candidate)
    photos, skipped = [], []
    for group in same_content.values():
        group.sort(key=lambda c: (-order.index(c.photo.split), not c.has_split_folder))
        first, *others = [candidate.photo for candidate in group]
        labels = sorted({photo.label for photo in (first, *others)} - {""})
        if len(labels) > 1:
            reason = f"the same photo under {' and '.join(labels)}"
            skipped += [Skipped(photo.path, reason) for photo in (first, *others)]
            continue
        photos.append(first)
        skipped += [Skipped(photo.path, f"the same photo as {first.path}") for photo in others]
    return sorted(photos, key=lambda photo: photo.id), skipped


def _check_damaged(
    listing: Listing, photos: list[Photo], skipped: list[Skipped], max_skipped: float
) -> None:
    damaged = [file for file in skipped if file.is_damaged]
    expected = len(photos) + len(damaged)
    if damaged and len(damaged) > max_skipped * expected:
        examples = "\n  ".join(f"{file.path}: {file.reason}" for file in damaged[:5])
        raise UserError(
            f"{len(damaged)} of {expected} photos in {listing.root} cannot be used, more than "
            f"data.max_skipped ({max_skipped:.0%}) allows:\n  {examples}\n"
            "Repair or remove them, or raise the limit: --set data.max_skipped=0.5"
        )


def _check_classes(listing: Listing, photos: list[Photo]) -> None:
    count = Counter((photo.label, photo.split) for photo in photos)
    classes = sorted({file.label for file in listing.files} - {""})
    usable = [name for name in classes if any(count[name, split] for split in SPLITS)]
    if len(usable) < 2:
        raise UserError(
            f"{listing.root} holds usable photos of {len(usable)} class(es) "
            f"({', '.join(usable) or 'none'}). A classifier needs at least two folders of photos."
        )
    for name in usable:
        if not count[name, "train"]:
            raise UserError(
                f"class {name!r} in {listing.root} has no photo to train on. Add at least ten "
                "photos of it, or remove the folder."
            )
    for split in ("validation", "test"):
        if not any(count[name, split] for name in usable):
            raise UserError(
                f"the {split} split is empty: {len(photos)} photos are too few, or "
                f"data.{split} is too small. Add photos, or raise data.{split}."
            )


def _class_names(photos: list[Photo]) -> list[str]:
    return sorted({photo.label for photo in photos} - {""})
