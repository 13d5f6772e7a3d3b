"""What it costs the answers of a model to round each of its tensors, from gradients."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from compress.graph.gradients import visit_gradients
from compress.int8.histogram import (
    CENTERS,
    EDGES,
    LEVELS,
    Range,
    cheapest_range,
    codes,
    count_codes,
)

NUM_GRADIENT_IMAGES = 32
"""Twice as many take twice as long; the files agree with float as often (docs/LOG.md)."""
WIDENINGS = np.geomspace(1, 8, 40)
"""Factors by which a range may be wider than the best one."""
MAX_SIDE = 64
"""Positions of a tensor that are used along height and width. Neighbours are much alike, so a
larger tensor is subsampled."""


@dataclass(frozen=True)
class Sensitivity:
    """The values of one tensor, and how much the answers depend on them.

    Costs are in nats: the Kullback-Leibler divergence between the probabilities before and after.

    Attributes:
        counts: number of values in each bin around `CENTERS`, mean over the images.
        squares: sum of their squared gradients of the log-probability, mean over the images.
        sums: sum of their gradients for each image, (images, bins).
        low: the smallest value, at most 0.
        high: the largest value, at least 0.
    """

    counts: np.ndarray
    squares: np.ndarray
    sums: np.ndarray
    low: float
    high: float

    def rounding_cost(self, low: Any, high: Any) -> Any:
        """Nats that the answers change by if the values are rounded to 255 steps of a range.

        This is the Kullback-Leibler divergence to second order: half the squared gradients times
        the squared errors, which are taken as independent (Li et al. 2021, section 3.2,
        arXiv:2102.05426).
        """
        return 0.5 * self.squares.sum() * np.square((high - low) / LEVELS) / 12

    def clipping_costs(self, lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats that clipping costs below each of `lows`, and above each of `highs`.

        There are two estimates, and the larger one counts. The first adds the effects of all
        clipped values of an image, because clipping moves them in one direction. The second
        integrates the gradient over the way that a value moves, because clipped values move far
        and their gradient changes on the way: behind a swish it is 0 at -8 but not at -2. The
        gradients on the way are those of the values that lie there; effects are independent.
        """
        occupied = np.flatnonzero(self.counts)
        bins = slice(occupied[0], occupied[-1] + 1)
        # The outermost bins are wider than the values in them.
        centers, counts = np.clip(CENTERS[bins], self.low, self.high), self.counts[bins]
        slopes = np.sqrt(self.squares[occupied] / self.counts[occupied])
        slopes = np.interp(centers, CENTERS[occupied], slopes)
        integral = np.cumsum(slopes * np.diff(EDGES)[bins])

        def cost(edges: np.ndarray, distances: np.ndarray) -> np.ndarray:
            """`distances`: how far each center lies outside of each edge, (bins, edges)."""
            together = np.square(self.sums[:, bins] @ distances).mean(axis=0)
            moved = integral[:, None] - np.interp(edges, centers, integral)
            independent = counts @ (np.square(moved) * (distances > 0))
            return 0.5 * np.maximum(together, independent)

        below = cost(lows, np.maximum(lows - centers[:, None], 0))
        return below, cost(highs, np.maximum(centers[:, None] - highs, 0))

    @cached_property
    def best(self) -> tuple[float, float, float]:
        """(low, high) where rounding and clipping cost least together, and their cost in nats."""
        if not self.squares.any():
            return self.low, self.high, 0.0
        return cheapest_range(
            self.low,
            self.high,
            rounding_cost=self.rounding_cost,
            clipping_costs=self.clipping_costs,
        )

    def widest(self, max_cost: float) -> Range:
        """The best range, or its largest multiple that costs no more than `max_cost` nats.

        No range is wider than the values: what an activation bounds needs no more room.
        """
        low, high, _ = self.best
        lows = np.maximum(low * WIDENINGS, self.low)
        highs = np.minimum(high * WIDENINGS, self.high)
        below, above = self.clipping_costs(lows, highs)
        is_cheap = self.rounding_cost(lows, highs) + below + above <= max_cost
        widest = int(np.flatnonzero(is_cheap)[-1]) if is_cheap.any() else 0
        return float(lows[widest]), float(highs[widest])

    def cost_within(self, low: float, high: float) -> float:
        """Nats that it costs to round the tensor to int8 in this range."""
        below, above = self.clipping_costs(np.array([low]), np.array([high]))
        return float(self.rounding_cost(low, high) + below[0] + above[0])

    @property
    def cost(self) -> float:
        """Nats that it costs to round the tensor to int8 in its best range."""
        return self.best[2]


def measure_sensitivities(
    model: keras.Model,
    images: np.ndarray,
    *,
    only: Collection[str] | None = None,
    seed: int = 0,
) -> dict[str, Sensitivity]:
    """How much the answers of a model depend on each of its tensors.

    Args:
        images: float32, (images, height, width, 3), from the training split; some dozens are
            enough.
        only: names of the tensors to measure; None measures all.
        seed: of the classes and positions that are drawn.

    Returns:
        Sensitivities by the names of `tensors_of`.

    Raises:
        UserError: the model answers with nan or inf.
    """
    rng = np.random.default_rng(seed)
    sensitivities: dict[str, Sensitivity] = {}

    def visit(name: str, values: np.ndarray, gradients: np.ndarray) -> None:
        added = _of_batch(values, gradients, len(images), rng)
        before = sensitivities.get(name)
        sensitivities[name] = added if before is None else _merged(before, added)

    visit_gradients(model, images, rng, visit, only)
    return sensitivities


def _of_batch(
    values: np.ndarray, gradients: np.ndarray, num_images: int, rng: np.random.Generator
) -> Sensitivity:
    """The share of one batch in the sensitivity over all images."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    share = 1.0
    if values.ndim == 4:
        strides = [max(size // MAX_SIDE, 1) for size in values.shape[1:3]]
        positions = tuple(slice(rng.integers(stride), None, stride) for stride in strides)
        num_values = values.size
        values, gradients = values[:, *positions], gradients[:, *positions]
        share = values.size / num_values
    gradients = gradients.reshape(len(values), -1).astype("float64")
    coded = codes(values).reshape(gradients.shape)
    sums = [count_codes(*image) for image in zip(coded, gradients, strict=True)]
    return Sensitivity(
        counts=count_codes(coded.ravel()) / share / num_images,
        squares=count_codes(coded.ravel(), np.square(gradients).ravel()) / share / num_images,
        sums=np.stack(sums) / share,
        low=low,
        high=high,
    )


def _merged(one: Sensitivity, other: Sensitivity) -> Sensitivity:
    return Sensitivity(
        counts=one.counts + other.counts,
        squares=one.squares + other.squares,
        sums=np.concatenate([one.sums, other.sums]),
        low=min(one.low, other.low),
        high=max(one.high, other.high),
    )
