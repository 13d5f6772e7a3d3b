"""From a source of photos to usable ones, each in its split."""

import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from configs.artifacts import read_json
from configs.errors import UserError
from configs.resume import HIDDEN, Built, Step, Workspace
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.manifest import (
    SPLITS,
    UNLABELLED,
    Examples,
    Photo,
    Skipped,
    count_endings,
    describe_empty,
    describe_endings,
    describe_skipped,
    examples_of,
    make_examples,
    stored_root,
    with_hidden_labels,
    write_manifest,
    write_near_duplicates,
)
from distill.data.scanning.known import KnownPhotos
from distill.data.scanning.listed import list_source
from distill.data.scanning.reading import read_all, without_duplicates
from distill.data.sources import SOURCES
from distill.data.sources.folders import files_below
from distill.data.sources.listing import ListedFile, Listing, Place
from distill.data.splitting.rule import SplitRule
from distill.data.splitting.split import near_duplicates_of, split_photos

log = logging.getLogger("potstill")

DEFAULTS = DataConfig()


def data_step(run: RunDir, data: DataConfig) -> Step:
    """Scan and split the photos. A file that was added, removed or changed makes it stale."""
    listing, state = list_source(data, run)
    manifest = run.photos_manifest.with_suffix(".json")

    def build(workspace: Workspace) -> Built:
        rule = SplitRule(validation=data.validation, test=data.test)
        find_near = data.near_duplicates
        if find_near is None:
            find_near = not _was_split_before(manifest)
        scanned = scan(
            listing,
            rule,
            max_skipped=data.max_skipped,
            find_near=find_near,
            memory=run.photos_manifest.parent / HIDDEN,
        )
        photos, skipped = scanned.photos, scanned.skipped
        if data.labels_per_class is not None:
            photos = with_hidden_labels(photos, data.labels_per_class)
        count = Counter(photo.split for photo in photos)
        paths, facts = write_manifest(run, photos, skipped), {}
        if find_near:
            paths.append(write_near_duplicates(run, scanned.near))
            facts["num_near_duplicates"] = sum(map(len, scanned.near))
        if scanned.num_groups:
            facts["num_groups"] = scanned.num_groups
        return paths, {
            "root": stored_root(run, listing.root),
            "source": data.source,
            "classes": _class_names(photos),
            "empty_classes": _empty_classes(listing, photos),
            **{f"num_{split}": count[split] for split in (*SPLITS, UNLABELLED)},
            **facts,
            "num_skipped": len(skipped),
            "skipped_endings": count_endings(skipped),
        }

    inputs = {"data": data.as_input(), "listing": state.listing}
    if _looks_at_inodes(manifest):
        inputs["inodes"] = state.inodes
    if _looks_at_root(manifest, listing.root):
        inputs["root"] = stored_root(run, listing.root)
    return Step("data", manifest, inputs, build)


def _looks_at_inodes(manifest: Path) -> bool:
    """Whether a photo that was replaced by one of the same size and date is noticed.

    Runs of older versions stay up to date without.
    """
    return not manifest.exists() or "inodes" in read_json(manifest).get("inputs", {})


def _looks_at_root(manifest: Path, root: Path) -> bool:
    """Whether the photos have moved since the first scan, so that the manifest names a lost folder.

    An archive with a new date is unpacked into a new folder, with the same photos.
    """
    facts = read_json(manifest) if manifest.exists() else {}
    if "root" in facts.get("inputs", {}):
        return True
    return "root" in facts and (manifest.parent / facts["root"]).resolve() != root.resolve()


def _was_split_before(manifest: Path) -> bool:
    """Whether a version that did not look for near-duplicates split the photos of this run.

    Its splits stay as they are when photos are added, so that no test photo was learned.
    """
    return manifest.exists() and "num_near_duplicates" not in read_json(manifest)


def scan_folder(
    path: Path, *, validation: float = DEFAULTS.validation, test: float = DEFAULTS.test
) -> dict[str, Examples]:
    """Examples by split of a folder of photos that belongs to no run, by the same split rule."""
    listing = SOURCES["folder"](Place(path))
    rule = SplitRule(validation=validation, test=test)
    photos = scan(listing, rule, max_skipped=DEFAULTS.max_skipped, in_run=False).photos
    classes, empty = _class_names(photos), _empty_classes(listing, photos)
    return {
        split: make_examples([p for p in photos if p.split == split], path, classes, empty)
        for split in SPLITS
    }


def scan_flat_folder(path: Path) -> dict[str, Examples]:
    """Examples by split of a folder of photos without labels: -1 for every photo, no classes.

    A photo is in the split that it would be in with a label, because its content decides. Only a
    class too small for the splits would have moved a photo: nobody knows the classes here.

    Raises:
        UserError: a split would be empty, or too many photos cannot be used.
    """
    listing = Listing(path, [ListedFile(name, "", None) for name in files_below(path, path)])
    rule = SplitRule(validation=DEFAULTS.validation, test=DEFAULTS.test)
    with KnownPhotos(None) as known:
        candidates, skipped = read_all(listing, rule, known)
    unique, duplicates = without_duplicates(candidates)
    skipped += duplicates
    photos = sorted((candidate.photo for candidate in unique), key=lambda photo: photo.id)
    _check_lost(path, len(photos), skipped, max_skipped=DEFAULTS.max_skipped, in_run=False)
    splits = {split: [p for p in photos if p.split == split] for split in SPLITS}
    lines = describe_skipped(skipped)
    if not all(splits.values()):
        raise UserError(
            f"{path} holds {len(photos)} usable photos without class folders, which are too few to "
            "calibrate, choose and measure a file. Expected about a hundred. " + " ".join(lines)
        )
    for line in lines:
        log.info("%s", line)
    return {split: make_examples(part, path, []) for split, part in splits.items()}


@dataclass(frozen=True)
class Scanned:
    """The photos of a listing.

    Attributes:
        photos: usable ones with their splits, in the order of their ids.
        near: near-duplicates set by set; those that are left out have an empty split.
        num_groups: of photos that stay together.
    """

    photos: list[Photo]
    skipped: list[Skipped]
    near: list[list[Photo]]
    num_groups: int


def scan(
    listing: Listing,
    rule: SplitRule,
    *,
    max_skipped: float,
    find_near: bool = True,
    in_run: bool = True,
    memory: Path | None = None,
) -> Scanned:
    """Open every file, skip what cannot be used, and give each photo its split.

    The log names what is not used: files by their endings, empty class folders, loose photos.

    Args:
        find_near: whether near-duplicates are looked for and kept on one side.
        in_run: whether the user can set `data.max_skipped`.
        memory: a folder with what earlier scans have learned, see `KnownPhotos`; None: nothing.

    Raises:
        UserError: too many photos cannot be used, or the others cannot train a classifier.
    """
    if rule.validation + rule.test >= 1:
        raise UserError(
            f"data.validation {rule.validation} and data.test {rule.test} leave nothing to train "
            "on. Their sum must be below 1."
        )
    train_rule = rule.beside_folders(listing)
    with KnownPhotos(memory) as known:
        candidates, skipped = read_all(listing, train_rule, known, thumbnails=find_near)
        candidates, duplicates = without_duplicates(candidates)
        near = near_duplicates_of(candidates, known.thumbnails()) if find_near else []
        known.forget_others()
    split = split_photos(candidates, train_rule, near)
    skipped += [*duplicates, *split.left_out]
    photos = sorted(split.photos, key=lambda photo: photo.id)
    _check_lost(listing.root, len(photos), skipped, max_skipped=max_skipped, in_run=in_run)
    _check_classes(listing, photos, skipped, in_run)
    for line in describe_skipped(skipped):
        log.info("%s", line)
    if split.near:
        log.info(
            "%d photos are nearly the same as another one; they stay on one side of every split",
            sum(map(len, split.near)),
        )
    empty = _empty_classes(listing, photos)
    for line in [*([describe_empty(empty)] if empty else []), *listing.notes]:
        log.warning("%s", line)
    return Scanned(photos, skipped, split.near, split.num_groups)


def _check_lost(
    root: Path, num_photos: int, skipped: list[Skipped], *, max_skipped: float, in_run: bool
) -> None:
    lost = [file for file in skipped if file.is_lost_photo]
    expected = num_photos + len(lost)
    if not lost or len(lost) <= max_skipped * expected:
        return
    limit = "data.max_skipped" if in_run else "the limit"
    enough = math.ceil(100 * len(lost) / expected) / 100
    can_raise = in_run and num_photos > 0
    raised = f", or raise the limit: --set data.max_skipped={enough}" if can_raise else ""
    raise UserError(
        f"{len(lost)} of {expected} photos in {root} cannot be used "
        f"({describe_endings(count_endings(lost))}), more than {limit} ({max_skipped:.0%}) "
        "allows:\n  "
        + "\n  ".join(examples_of(lost)[:5])
        + f"\nRepair, convert or remove them{raised}"
    )


def _check_classes(
    listing: Listing, photos: list[Photo], skipped: list[Skipped], in_run: bool
) -> None:
    count = Counter((photo.label, photo.split) for photo in photos)
    usable = _class_names(photos)
    lines = "".join(f"\n{line}" for line in describe_skipped(skipped))
    if len(usable) < 2:
        raise UserError(
            f"{listing.root} holds usable photos of {len(usable)} class(es) "
            f"({', '.join(usable) or 'none'}). A classifier needs at least two folders of photos."
            f"{lines}"
        )
    for name in usable:
        if not count[name, "train"]:
            raise UserError(
                f"class {name!r} in {listing.root} has no photo to train on. Add at least ten "
                f"photos of it, or remove the folder.{lines}"
            )
    for split in ("validation", "test"):
        if not any(count[name, split] for name in usable):
            cause = f", or data.{split} is too small" if in_run else ""
            advice = f", or raise data.{split}" if in_run else ""
            raise UserError(
                f"the {split} split is empty: {len(photos)} photos are too few{cause}. Add photos"
                f"{advice}.{lines}"
            )


def _class_names(photos: list[Photo]) -> list[str]:
    return sorted({photo.label for photo in photos} - {""})


def _empty_classes(listing: Listing, photos: list[Photo]) -> list[str]:
    """The names of class folders without a usable photo."""
    folders = {*listing.classes, *(file.label for file in listing.files)} - {""}
    return sorted(folders - set(_class_names(photos)))
