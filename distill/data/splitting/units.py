"""Photos that stay on one side of every split: those of one group, and near-duplicates.

Such photos form a unit. A unit moves as a whole: `sides` gives it a split.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from distill.data.splitting.rule import IN_ORDER, SplitRule

log = logging.getLogger("potstill")

MAX_SHARE = 0.2
"""Of the photos, that near-duplicates may bind into one unit. Larger ones leave too little else."""

GROUP = "group "
"""How the key of a unit begins that holds a group. Other keys are digests."""

FEW_GROUPS = 10
"""A class with fewer groups is named: its scores rest on a handful of them."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Photos that stay together.

    Attributes:
        key: what the split is drawn from; it stays when photos are added to a group.
        num_by_class: how many photos of each class.
    """

    key: str
    num_by_class: Mapping[str, int]

    @property
    def is_group(self) -> bool:
        """Whether the user or the source wants them together."""
        return self.key.startswith(GROUP)

    @property
    def num_photos(self) -> int:
        return sum(self.num_by_class.values())


def units_of(groups: Sequence[str], near: Sequence[Sequence[int]]) -> np.ndarray:
    """The number of the unit of every photo, int64 (photos,).

    Args:
        groups: of every photo; "" for a photo that belongs to none.
        near: the indices of near-duplicates, set by set.
    """
    numbers: dict[str, int] = {}
    group_links = [
        (row, len(groups) + numbers.setdefault(group, len(numbers)))
        for row, group in enumerate(groups)
        if group
    ]
    num_nodes = len(groups) + len(numbers)
    largest_group = max(Counter(filter(None, groups)).values(), default=1)
    limit = max(MAX_SHARE * len(groups), largest_group, 2)
    near_links = [(rows[0], row) for rows in near for row in rows[1:]]
    units = _components([*group_links, *near_links], num_nodes)[: len(groups)]
    sizes = np.bincount(units) if len(units) else np.zeros(0)
    if (sizes > limit).any():
        log.warning(
            "%d photos look nearly the same, one as the next. They are split as if they were "
            "different. If some of them show one thing, say so with data.group.",
            sizes.max(),
        )
        near_links = [link for link in near_links if sizes[units[link[0]]] <= limit]
        units = _components([*group_links, *near_links], num_nodes)[: len(groups)]
    return units


def _components(links: list[tuple[int, int]], num_nodes: int) -> np.ndarray:
    first, second = np.array(links, "int64").reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (first, second)), shape=(num_nodes, num_nodes))
    return connected_components(graph, directed=False)[1].astype("int64")


def sides_by_content(units: Iterable[Unit], rule: SplitRule) -> dict[str, str]:
    """The split of every unit by its key, class by class; a unit of several classes stays put."""
    by_class: dict[str, list[str]] = defaultdict(list)
    splits = {}
    for unit in units:
        splits[unit.key] = rule.split_of(unit.key)
        if len(unit.num_by_class) == 1:
            by_class[next(iter(unit.num_by_class))].append(unit.key)
    for keys in by_class.values():
        splits |= rule.splits_of_class(keys)
    return splits


def balanced_sides(units: Iterable[Unit], rule: SplitRule) -> dict[str, str]:
    """The split of every unit, so that each split gets its share of every class if it can.

    The largest unit comes first. Each goes where the squared distance from the wanted shares,
    summed over its classes, grows least (the idea of scikit-learn's StratifiedGroupKFold, for
    unequal shares). Then a split without a unit of a class takes a small one from another split.
    """
    ordered = sorted(units, key=lambda unit: (-unit.num_photos, _order(unit.key)))
    shares = {"train": 1 - rule.validation - rule.test, "validation": rule.validation}
    shares = {name: share for name, share in {**shares, "test": rule.test}.items() if share}
    total: Counter[str] = Counter()
    for unit in ordered:
        total.update(unit.num_by_class)
    held: dict[str, Counter[str]] = {name: Counter() for name in shares}
    splits = {}
    for unit in ordered:

        def growth(name: str, unit: Unit = unit) -> float:
            return sum(
                (2 * (held[name][label] / total[label] - shares[name]) + part) * part
                for label, num in unit.num_by_class.items()
                for part in [num / total[label]]
            )

        splits[unit.key] = min(shares, key=growth)
        held[splits[unit.key]].update(unit.num_by_class)
    _fill(splits, ordered, list(shares))
    return splits


def _fill(splits: dict[str, str], units: Sequence[Unit], names: list[str]) -> None:
    """Give every split a unit of every class that has enough of them."""
    by_class: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        for label in unit.num_by_class:
            by_class[label].append(unit)
    num: Counter[tuple[str, str]] = Counter()
    for label, of_class in by_class.items():
        num.update((label, splits[unit.key]) for unit in of_class)
    for label, of_class in by_class.items():
        is_small = len(of_class) < len(names)
        for name in ["train"] if is_small else names:
            if num[label, name]:
                continue
            for unit in reversed(of_class):  # the smallest first
                donor = splits[unit.key]
                keeps = all(num[other, donor] > (not is_small) for other in unit.num_by_class)
                if donor != name and keeps:
                    splits[unit.key] = name
                    num.subtract((other, donor) for other in unit.num_by_class)
                    num.update((other, name) for other in unit.num_by_class)
                    break


def _order(key: str) -> str:
    return hashlib.sha256(f"group {key}".encode()).hexdigest()


def describe_groups(units: Iterable[Unit], splits: Mapping[str, str]) -> str:
    """How many groups each split has, in words."""
    num = Counter(splits[unit.key] for unit in units if unit.is_group)
    parts = ", ".join(f"{name} {num[name]}" for name in reversed(IN_ORDER))
    return f"{sum(num.values())} groups stay together: {parts}"


def few_groups(units: Iterable[Unit]) -> str:
    """A sentence that names the classes with few groups; "" if there are none."""
    num: Counter[str] = Counter()
    for unit in units:
        num.update(unit.num_by_class.keys())
    few = sorted((count, label) for label, count in num.items() if count < FEW_GROUPS)
    if not few:
        return ""
    names = ", ".join(f"{label} ({count})" for count, label in few[:20])
    names += f" and {len(few) - 20} more" if few[20:] else ""
    return (
        f"These classes have fewer than {FEW_GROUPS} groups, so their scores rest on a few of "
        f"them, and below three a split has none: {names}."
    )
