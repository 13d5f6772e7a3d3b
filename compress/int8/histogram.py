"""Histograms of the values of a tensor, and the ranges that they suggest for int8."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Range = tuple[float, float]
LEVELS = 255
"""Steps of an int8 or uint8 tensor."""
# A bin holds the float32 values that share sign, exponent and the first three bits of the mantissa:
# 6 to 12 % wide at every magnitude, and found by a shift. Magnitudes beyond 2^-20 and 2^20 count
# as these.
SHIFT = 20
_FIRST = (127 - 20) << 3
_MAGNITUDES = (np.arange(_FIRST, (127 + 20 << 3) + 1, dtype="uint32") << SHIFT).view("float32")
_EDGES = np.append(0.0, _MAGNITUDES[1:].astype("float64"))
EDGES = np.concatenate([-_EDGES[:0:-1], _EDGES])
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2
_HALF = len(CENTERS) // 2


def bins(values: np.ndarray) -> np.ndarray:
    """The index into `CENTERS` of every value."""
    bits = np.ascontiguousarray(values, "float32").view("int32")
    magnitudes = np.clip(((bits & 0x7FFFFFFF) >> SHIFT) - _FIRST, 0, _HALF - 1)
    return np.where(bits < 0, _HALF - 1 - magnitudes, _HALF + magnitudes)


# What is left of a value when the shift has taken the rest of its bits: the bin can be looked up.
_BIN_OF_CODE = bins((np.arange(1 << (32 - SHIFT), dtype="uint32") << SHIFT).view("float32"))


def codes(values: np.ndarray) -> np.ndarray:
    """What `counted` needs to know of values, in one row."""
    bits = np.ascontiguousarray(values, "float32").view("uint32").ravel()
    return (bits >> SHIFT).astype("intp")


def counted(coded: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The number of values in each bin around `CENTERS`, or the sum of their weights.

    Args:
        coded: the `codes` of the values.
    """
    by_code = np.bincount(coded, weights, minlength=len(_BIN_OF_CODE))
    return np.bincount(_BIN_OF_CODE, by_code, minlength=len(CENTERS))


def cheapest(
    low: float,
    high: float,
    *,
    rounding: Callable[[Any, Any], Any],
    clipping: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> tuple[float, float, float]:
    """The (low, high) within a range where rounding and clipping cost least together, and the cost.

    Args:
        low: at most 0.
        high: at least 0.
        rounding: what it costs in the range of a low and a high.
        clipping: what it costs below each of some lows and above each of some highs.
    """
    shares = np.geomspace(0.05, 1, 50)
    lows, highs = np.unique(low * shares), high * shares
    below, above = clipping(lows, highs)
    cost = rounding(lows[:, None], highs) + below[:, None] + above
    i, j = np.unravel_index(cost.argmin(), cost.shape)
    return float(lows[i]), float(highs[j]), float(cost[i, j])


@dataclass(frozen=True)
class Histogram:
    """The values of a tensor.

    Attributes:
        counts: values in each bin around `CENTERS`.
        low: the smallest value, at most 0.
        high: the largest value, at least 0.
    """

    counts: np.ndarray
    low: float
    high: float

    def percentile(self, percentile: float) -> Range:
        """(low, high) that leaves out half of the other values on either side.

        As the percentiles of onnxruntime's calibration: 99.9 leaves out 0.05 % below and above.
        """
        # The outermost bins reach beyond the values that they hold.
        edges = np.clip(EDGES, self.low, self.high)
        shares = np.append(0.0, self.counts.cumsum()) / self.counts.sum()
        left_out = (1 - percentile / 100) / 2
        low, high = np.interp([left_out, 1 - left_out], shares, edges)
        return min(float(low), 0.0), max(float(high), 0.0)

    def least_squares(self) -> Range:
        """(low, high) in which the squared errors of rounding and clipping are least together."""
        centers = np.clip(CENTERS, self.low, self.high)

        def clipping(lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            below = np.maximum(lows - centers[:, None], 0)
            above = np.maximum(centers[:, None] - highs, 0)
            return self.counts @ np.square(below), self.counts @ np.square(above)

        return cheapest(self.low, self.high, rounding=self._rounding, clipping=clipping)[:2]

    def _rounding(self, low: Any, high: Any) -> Any:
        """Squared errors: a twelfth of a step's square, but what is nearer to 0 than half a step
        becomes 0, and a 0 (half of what a ReLU gives) has no error."""
        magnitudes = CENTERS[_HALF:]
        counts = self.counts[_HALF:] + self.counts[_HALF - 1 :: -1]
        to_zero = np.append(0.0, (counts * np.square(magnitudes)).cumsum())
        others = counts.sum() - np.append(0.0, counts.cumsum())
        step = (high - low) / LEVELS
        at = np.searchsorted(magnitudes, step / 2)
        return to_zero[at] + others[at] * np.square(step) / 12
