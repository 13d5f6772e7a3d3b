"""Readable photos get their split: units of photos stay on one side."""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from configs.errors import UserError
from distill.data.manifest import UNLABELLED, Photo, Skipped
from distill.data.reading import Candidate
from distill.data.splitting.near_duplicates import near_duplicates
from distill.data.splitting.rule import SplitRule
from distill.data.splitting.units import (
    Unit,
    balanced_sides,
    describe_groups,
    few_groups,
    sides_by_content,
    units_of,
)

log = logging.getLogger("potstill")

SIDES = {"train": 0, UNLABELLED: 0, "validation": 1, "test": 2}
"""What is learned, what chooses, and what is tested. A photo counts on the highest side."""


@dataclass(frozen=True)
class SplitPhotos:
    """Photos with their splits.

    Attributes:
        left_out: photos that would be on two sides.
        near: near-duplicates set by set, those that are left out with an empty split.
        num_groups: of photos that the user or the source wants together.
    """

    photos: list[Photo]
    left_out: list[Skipped] = field(default_factory=list)
    near: list[list[Photo]] = field(default_factory=list)
    num_groups: int = 0


def split_photos(
    candidates: Sequence[Candidate], rule: SplitRule, *, find_near: bool
) -> SplitPhotos:
    """Each photo in its split, with no group and no near-duplicate on two sides.

    Photos whose folder or table names their split stay there. If a near-duplicate of theirs lies
    on another side, the photo of the lower side is left out, so that nothing is tested that was
    learned.

    Args:
        find_near: whether to look for near-duplicates.

    Raises:
        UserError: the given splits put one group on two sides.
    """
    near = near_duplicates([c.thumbnail for c in candidates]) if find_near else []
    photos: list[Photo | None] = [candidate.photo for candidate in candidates]
    left_out: dict[int, Skipped] = {}
    for rows in near:
        left_out |= _lower_sides(candidates, rows)
    groups = [candidate.photo.group for candidate in candidates]
    _refuse_split_groups(candidates)
    rest = [[row for row in rows if row not in left_out] for rows in near]
    unit_of = units_of(groups, [rows for rows in rest if len(rows) > 1])
    free: dict[int, list[int]] = defaultdict(list)
    for row, candidate in enumerate(candidates):
        if not candidate.has_split_folder and row not in left_out:
            free[int(unit_of[row])].append(row)
    units = {number: _unit(candidates, rows) for number, rows in free.items()}
    has_groups = any(groups)
    sides = (balanced_sides if has_groups else sides_by_content)(units.values(), rule)
    first_of = {number: candidates[rows[0]].photo for number, rows in free.items()}
    for row, candidate in enumerate(candidates):
        unit = int(unit_of[row])
        if row in left_out or unit not in units:
            continue
        split = sides[units[unit].key]
        if not candidate.has_split_folder:
            photos[row] = replace(candidate.photo, split=split)
        elif candidate.photo.split == UNLABELLED and SIDES[split]:
            left_out[row] = Skipped(
                candidate.photo.path,
                f"of one group with, or nearly the same as, {first_of[unit].path} ({split})",
            )
    for row in left_out:
        photos[row] = None
    if has_groups:
        log.info("%s", describe_groups(units.values(), sides))
        if few := few_groups(units.values()):
            log.warning("%s", few)
    return SplitPhotos(
        [photo for photo in photos if photo is not None],
        list(left_out.values()),
        [[photos[r] or replace(candidates[r].photo, split="") for r in rows] for rows in near],
        len(set(groups) - {""}),
    )


def _unit(candidates: Sequence[Candidate], rows: Sequence[int]) -> Unit:
    photos = [candidates[row].photo for row in rows]
    names = [photo.group for photo in photos if photo.group]
    key = f"group {min(names)}" if names else min(photo.sha256 for photo in photos)
    return Unit(key, Counter(photo.label for photo in photos))


def _lower_sides(candidates: Sequence[Candidate], rows: Sequence[int]) -> dict[int, Skipped]:
    """Which of these near-duplicates are left out, because a given split has one on a higher side.

    Photos whose split is still to be drawn count as training photos beside given test photos.
    """
    given = [row for row in rows if candidates[row].has_split_folder]
    if not given:
        return {}
    highest = max(given, key=lambda row: SIDES[candidates[row].photo.split])
    side = SIDES[candidates[highest].photo.split]
    shown = candidates[highest].photo
    return {
        row: Skipped(candidates[row].photo.path, f"nearly the same photo as {shown.path}")
        for row in rows
        if side and not (row in given and SIDES[candidates[row].photo.split] == side)
    }


def _refuse_split_groups(candidates: Sequence[Candidate]) -> None:
    sides: dict[str, set[str]] = defaultdict(set)
    for candidate in candidates:
        split = candidate.photo.split
        if candidate.photo.group and split != UNLABELLED:
            is_given = candidate.has_split_folder and SIDES[split]
            sides[candidate.photo.group].add(split if is_given else "train")
    torn = sorted(name for name, splits in sides.items() if len(splits) > 1)
    if torn:
        where = " and ".join(sorted(sides[torn[0]]))
        raise UserError(
            f"{len(torn)} group(s) have photos in several splits, because the folders or the table "
            f"say so: {', '.join(torn[:5])} ({torn[0]} in {where}). Expected every group in one "
            "split. Correct the splits, or let the groups decide: --set data.use_splits=false"
        )
