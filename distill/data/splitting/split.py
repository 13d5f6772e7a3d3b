"""Readable photos get their split: units of photos stay on one side."""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from configs.errors import UserError
from distill.data.manifest import UNLABELLED, Photo, Skipped
from distill.data.scanning.reading import Candidate
from distill.data.splitting.near_duplicates import near_duplicates
from distill.data.splitting.rule import SplitRule
from distill.data.splitting.units import (
    GROUP,
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


def near_duplicates_of(candidates: Sequence[Candidate], thumbnails: np.ndarray) -> list[list[int]]:
    """Which candidates are nearly the same, set by set.

    Args:
        thumbnails: uint8, (rows, SIDE, SIDE); candidates name their row.
    """
    of_candidate = np.fromiter((c.thumbnail for c in candidates), "int64", len(candidates))
    compared = np.flatnonzero(of_candidate >= 0)
    sets = near_duplicates(thumbnails, of_candidate[compared])
    return [compared[rows].tolist() for rows in sets]


def split_photos(
    candidates: Sequence[Candidate], rule: SplitRule, near: Sequence[Sequence[int]]
) -> SplitPhotos:
    """Each photo in its split, with no group and no near-duplicate on two sides.

    Photos whose folder or table names their split stay there. If a near-duplicate of theirs lies
    on another side, the photo of the lower side is left out, so that nothing is tested that was
    learned.

    Args:
        near: the rows of candidates that are nearly the same, set by set.

    Raises:
        UserError: the given splits put one group on two sides.
    """
    left_out: dict[int, Skipped] = {}
    for rows in near:
        left_out |= _lower_sides(candidates, rows)
    _refuse_split_groups(candidates)
    groups = [candidate.photo.group for candidate in candidates]
    unit_of = units_of(groups, [[row for row in rows if row not in left_out] for rows in near])
    units, alone = _units_to_split(candidates, unit_of, left_out)
    draw_sides = balanced_sides if any(groups) else sides_by_content
    sides = draw_sides(chain(units.values(), _units_alone(candidates, alone)), rule)
    photos: list[Photo | None] = [None] * len(candidates)
    for row, candidate in enumerate(candidates):
        unit = units.get(int(unit_of[row]))
        photo = candidate.photo
        split = photo.split if unit is None else sides[unit.key]
        if alone[row]:
            split = sides[photo.sha256]
        if not candidate.has_split_folder and row not in left_out:
            photos[row] = photo if photo.split == split else replace(photo, split=split)
        elif photo.split == UNLABELLED and SIDES[split]:
            reason = f"a photo of its group, or nearly the same photo, is in the {split} split"
            left_out[row] = Skipped(photo.path, reason)
        elif row not in left_out:
            photos[row] = photo
    if any(groups):
        _log_groups([*units.values(), *_units_alone(candidates, alone)], sides)
    return SplitPhotos(
        [photo for photo in photos if photo is not None],
        list(left_out.values()),
        [[photos[r] or replace(candidates[r].photo, split="") for r in rows] for rows in near],
        len(set(groups) - {""}),
    )


def _units_to_split(
    candidates: Sequence[Candidate], unit_of: np.ndarray, left_out: Mapping[int, Skipped]
) -> tuple[dict[int, Unit], np.ndarray]:
    """The units that hold photos whose split is to be drawn, by their numbers.

    Photos that are alone in their unit, and in no group, are not among them: there are so many
    that they would fill the memory. The second array, bool (photos,), says which these are.
    """
    is_single = np.bincount(unit_of, minlength=1)[unit_of] == 1
    alone = np.array(
        [
            is_single[row] and not candidate.photo.group and not candidate.has_split_folder
            for row, candidate in enumerate(candidates)
        ],
        bool,
    )
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~alone).tolist():
        if not candidates[row].has_split_folder and row not in left_out:
            rows_of[int(unit_of[row])].append(row)
    alone[list(left_out)] = False
    units = {number: _unit([candidates[r].photo for r in rows]) for number, rows in rows_of.items()}
    return units, alone


def _units_alone(candidates: Sequence[Candidate], alone: np.ndarray) -> Iterator[Unit]:
    """The units of photos that are alone. Those of one class share their counts."""
    counts: dict[str, Counter[str]] = {}
    for row in np.flatnonzero(alone).tolist():
        photo = candidates[row].photo
        yield Unit(photo.sha256, counts.setdefault(photo.label, Counter([photo.label])))


def _unit(photos: Sequence[Photo]) -> Unit:
    names = [photo.group for photo in photos if photo.group]
    key = f"{GROUP}{min(names)}" if names else min(photo.sha256 for photo in photos)
    return Unit(key, Counter(photo.label for photo in photos))


def _log_groups(units: Collection[Unit], sides: Mapping[str, str]) -> None:
    log.info("%s", describe_groups(units, sides))
    if few := few_groups(units):
        log.warning("%s", few)


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
