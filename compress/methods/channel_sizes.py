"""How many channels each group keeps: a path of shrinking sizes, and where it meets a target."""

import bisect
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from eval.timing.latency import Latency, SpeedDifference
from eval.timing.results import time_together

log = logging.getLogger("potstill")

Sizes = tuple[int, ...]
"""The number of channels of each group."""


def _check_of(of: str) -> str:
    if of != "macs" and of not in RECIPES.names():
        raise ValueError(f"expected macs or a recipe.{nearest(of, ['macs', *RECIPES.names()])}")
    return of


Of = Annotated[str, AfterValidator(_check_of)]
"""What is reduced: the multiply-accumulates, or the latency of the file that a recipe writes."""

MIN_SHARE = 0.1
"""The smallest share of a group's channels. The importances are those of single channels, and say
little about removing nearly all of them together."""

MACS_PER_WRITE = 100
"""The cost of writing one number, in multiply-accumulates. The time of EfficientNetB0 at 128 px
follows the multiply-accumulates in float (0.06 ms per million) and the writes in int8 (0.5 ms per
million)."""

COARSENESS = 0.01
"""The distance between sizes whose latency is measured, as a share of the whole network's cost."""

ANY_RANGES = {"num_images": 1, "ranges": "minmax"}
"""Options of int8 files that are only timed."""
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
    """The largest sizes at which at most `keep` of the network remains.

    Args:
        importances: of each channel of each group, in nats.
        latency: of the network with such sizes, as a share of the whole network's. Without it, the
            multiply-accumulates are compared.

    Raises:
        UserError: there are no such sizes.
    """
    path = list(_shrinking_sizes(groups, importances, multiple_of))
    name, share_of = "multiply-accumulates", _share_function(groups.macs, path[0])
    if latency:
        name, share_of = "latency", cache(latency)
        cost = _share_function(_cost(groups), path[0])
        # The first sizes in each hundredth of the network's cost.
        hundredths = groupby(path, lambda sizes: int(cost(sizes) / COARSENESS))
        path = list(dict.fromkeys([*(next(sizes) for _, sizes in hundredths), path[-1]]))
    place = bisect.bisect_left(path, True, key=lambda sizes: share_of(sizes) <= keep)
    if place == len(path):
        raise UserError(
            f"channels cannot reach {keep:.0%} of the {name}: {share_of(path[-1]):.0%} remains "
            "after removing every removable channel. Increase `keep`."
        )
    return path[place]


def _shrinking_sizes(
    groups: ChannelGroups, importances: list[np.ndarray], multiple_of: int
) -> Iterator[Sizes]:
    """Sizes from the whole network down, each without the channels of least importance per cost."""
    least_first = [np.sort(of_group) for of_group in importances]
    costs = [
        [term for term in _cost(groups) if index in term.groups]
        for index in range(len(groups.groups))
    ]
    sizes = tuple(group.size for group in groups.groups)
    while True:
        yield sizes
        nats_per_cost: dict[Sizes, float] = {}
        for index, smaller in _smaller_sizes(groups, sizes, multiple_of):
            after = (*sizes[:index], smaller, *sizes[index + 1 :])
            removed = len(least_first[index]) - np.array([sizes[index], smaller])
            lost = least_first[index][slice(*removed)].sum()
            saved = total(costs[index], sizes) - total(costs[index], after)
            nats_per_cost[after] = float(lost) / saved
        if not nats_per_cost:
            return
        sizes = min(nats_per_cost, key=lambda after: nats_per_cost[after])


def _smaller_sizes(
    groups: ChannelGroups, sizes: Sizes, multiple_of: int
) -> Iterator[tuple[int, int]]:
    """The groups that can lose channels, and their next smaller size: (index, size)."""
    for index, (group, size) in enumerate(zip(groups.groups, sizes, strict=True)):
        smaller = (size - 1) // multiple_of * multiple_of
        if smaller >= max(MIN_SHARE * group.size, 1):
            yield index, smaller


def _share_function(terms: list[Term], whole: Sizes) -> Callable[[Sizes], float]:
    """A function from sizes to the cost of such a network, as a share of the whole one's."""
    return lambda sizes: total(terms, sizes) / total(terms, whole)


def _cost(groups: ChannelGroups) -> list[Term]:
    """An estimate of the latency, in multiply-accumulates."""
    return [
        *groups.macs,
        *(Term(MACS_PER_WRITE * term.unit, term.groups) for term in groups.writes),
    ]


@dataclass(frozen=True)
class FileLatency:
    """The latency of a smaller network's file, timed together with the whole network's."""

    recipe: str
    difference: SpeedDifference
    smaller: Latency
    whole: Latency

    def to_json(self) -> dict[str, Any]:
        """For the manifest of the model: the times, how they were measured, and the machine."""
        return {
            **to_json(self.difference),
            "recipe": self.recipe,
            "p50_ms": self.smaller.p50_ms,
            "whole_p50_ms": self.whole.p50_ms,
            **{key: getattr(self.smaller, key) for key in MEASURED_HOW},
            "machine": to_json(this_machine()),
        }


@contextmanager
def latency_meter(
    whole: keras.Model, recipe: str, images: np.ndarray
) -> Iterator[Callable[[keras.Model], FileLatency]]:
    """A function that measures the latency of a smaller network's file.

    Both files are written by one recipe and timed in turns, on this machine, with one thread.

    Args:
        images: to calibrate on.
    """
    suffix = f".{recipe.partition('.')[0]}"
    options = ANY_RANGES if "ranges" in RECIPES.options(recipe) else {}

    def write(model: keras.Model, file: Path) -> None:
        conversion = Conversion(model, lambda: iter(images))
        RECIPES[recipe](conversion, file, output="logits", **options)

    with tempfile.TemporaryDirectory() as folder:
        whole_file, smaller_file = (
            Path(folder, name).with_suffix(suffix) for name in ("whole", "smaller")
        )
        write(whole, whole_file)

        def measure(smaller: keras.Model) -> FileLatency:
            write(smaller, smaller_file)
            latencies = time_together(
                [whole_file, smaller_file], num_threads=1, num_warmup=NUM_WARMUP, num_runs=NUM_RUNS
            )
            of_smaller, of_whole = latencies[smaller_file], latencies[whole_file]
            comparison = difference(of_smaller, of_whole)
            assert comparison, "NUM_RUNS gives enough rounds"
            log.info("channels: %.1f %% of the latency of %s", 100 * comparison.ratio, recipe)
            return FileLatency(recipe, comparison, of_smaller, of_whole)

        yield measure
