"""How many channels each group keeps: the way down, and where on it a target is reached."""

import bisect
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from pydantic import AfterValidator

from compress.methods.channel_groups import ChannelGroups, Term, total
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from configs.errors import UserError
from configs.records import to_json
from configs.registry import nearest
from eval.devices.machine import this_machine
from eval.timing.differences import difference
from eval.timing.results import time_together

log = logging.getLogger("potstill")

Sizes = tuple[int, ...]
"""How many channels each group has."""


def _known(of: str) -> str:
    if of != "macs" and of not in RECIPES.names():
        raise ValueError(f"expected macs or a recipe.{nearest(of, ['macs', *RECIPES.names()])}")
    return of


Of = Annotated[str, AfterValidator(_known)]
"""What a network keeps a share of: multiply-accumulates, or the latency of the file of a recipe."""

FEWEST = 0.1
"""Of the channels of a group: importances are those of single channels, and say little of nearly
all of them together."""

MACS_PER_WRITE = 100
"""What writing a number costs in multiply-accumulates. EfficientNetB0 at 128 px takes its time for
these alone in floats (0.06 ms a million), and in int8 for what it writes (0.5 ms a million)."""

COARSENESS = 0.01
"""Of what the whole network costs: how far apart the sizes are between which latency decides."""

ANY_RANGES = {"num_images": 1, "ranges": "minmax"}
"""Of int8 files that are only timed."""
NUM_WARMUP, NUM_RUNS = 10, 100
MEASURED_HOW = ("device", "runtime", "num_threads", "num_warmup", "num_runs", "noise_floor")


def sizes_within(
    keep: float,
    groups: ChannelGroups,
    importances: list[np.ndarray],
    *,
    multiple_of: int,
    latency: Callable[[Sizes], float] | None = None,
) -> Sizes:
    """The largest sizes on the way down at which no more than `keep` of the network is left.

    Args:
        importances: nats that each channel of each group tells.
        latency: of the network with such groups, as a share of the whole one's; without it, shares
            are those of the multiply-accumulates.

    Raises:
        UserError: there are none.
    """
    way = list(_way_down(groups, importances, multiple_of))
    name, share = "multiply-accumulates", _share_of(groups.macs, way[0])
    if latency:
        name, share = "latency", cache(latency)
        cost = _share_of(_cost(groups), way[0])
        # The first of each hundredth of what the network costs.
        marks = groupby(way, lambda sizes: int(cost(sizes) / COARSENESS))
        way = list(dict.fromkeys([*(next(some) for _, some in marks), way[-1]]))
    place = bisect.bisect_left(way, True, key=lambda sizes: share(sizes) <= keep)
    if place == len(way):
        raise UserError(
            f"channels cannot come down to {keep:.0%} of the {name}: without all that can be "
            f"removed {share(way[-1]):.0%} are left. Keep more."
        )
    return way[place]


def _way_down(
    groups: ChannelGroups, importances: list[np.ndarray], multiple_of: int
) -> Iterator[Sizes]:
    """Sizes from the whole network on, each without what tells least for what it costs."""
    least_first = [np.sort(each) for each in importances]
    costs = [
        [term for term in _cost(groups) if index in term.groups]
        for index in range(len(groups.groups))
    ]
    sizes = tuple(group.size for group in groups.groups)
    while True:
        yield sizes
        nats_per_cost: dict[Sizes, float] = {}
        for index, smaller in _steps(groups, sizes, multiple_of):
            after = (*sizes[:index], smaller, *sizes[index + 1 :])
            removed = len(least_first[index]) - np.array([sizes[index], smaller])
            lost = least_first[index][slice(*removed)].sum()
            saved = total(costs[index], sizes) - total(costs[index], after)
            nats_per_cost[after] = float(lost) / saved
        if not nats_per_cost:
            return
        sizes = min(nats_per_cost, key=lambda after: nats_per_cost[after])


def _steps(groups: ChannelGroups, sizes: Sizes, multiple_of: int) -> Iterator[tuple[int, int]]:
    """What could go next: (group, its size then)."""
    for index, (group, size) in enumerate(zip(groups.groups, sizes, strict=True)):
        smaller = (size - 1) // multiple_of * multiple_of
        if smaller >= max(FEWEST * group.size, 1):
            yield index, smaller


def _share_of(terms: list[Term], whole: Sizes) -> Callable[[Sizes], float]:
    return lambda sizes: total(terms, sizes) / total(terms, whole)


def _cost(groups: ChannelGroups) -> list[Term]:
    return [
        *groups.macs,
        *(Term(MACS_PER_WRITE * term.unit, term.groups) for term in groups.writes),
    ]


@contextmanager
def file_latency(
    whole: keras.Model, recipe: str, images: np.ndarray
) -> Iterator[Callable[[keras.Model], dict[str, Any]]]:
    """A function from a model to the latency of its file, against that of the whole one.

    Files of one recipe, timed in turns on this machine with one thread. It says what
    `eval.timing.differences.difference` does (`ratio` and more), how it was measured and where.
    """
    suffix = f".{recipe.partition('.')[0]}"
    options = ANY_RANGES if "ranges" in RECIPES.options(recipe) else {}

    def write(model: keras.Model, file: Path) -> None:
        conversion = Conversion(model, lambda: iter(images))
        RECIPES[recipe](conversion, file, output="logits", **options)

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name).with_suffix(suffix) for name in ("whole", "smaller")]
        write(whole, files[0])

        def measured(smaller: keras.Model) -> dict[str, Any]:
            write(smaller, files[1])
            rows = time_together(files, num_threads=1, num_warmup=NUM_WARMUP, num_runs=NUM_RUNS)
            of_whole, of_smaller = (rows[file] for file in files)
            told = difference(of_smaller, of_whole)
            assert told, "there are rounds enough"
            log.info("channels: %.1f %% of the latency of %s", 100 * told.ratio, recipe)
            return {
                **to_json(told),
                "recipe": recipe,
                "p50_ms": of_smaller.p50_ms,
                "whole_p50_ms": of_whole.p50_ms,
                **{key: getattr(of_smaller, key) for key in MEASURED_HOW},
                "machine": to_json(this_machine()),
            }

        yield measured
