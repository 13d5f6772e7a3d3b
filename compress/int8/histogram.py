"""Histograms of the values of a tensor, and the int8 ranges that they suggest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Range = tuple[float, float]
LEVELS = 255
"""Steps of an int8 or uint8 tensor."""
# A bin holds the float32 values that share sign, exponent and the first three bits of the mantissa.
# So a bin is 6 to 12 % wide at every magnitude, and a shift finds the bin of a value. Magnitudes
# below 2^-20 and above 2^20 count as these two.
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


# A code is what the shift leaves of a value; this table has the bin of every code.
_BIN_OF_CODE = bins((np.arange(1 << (32 - SHIFT), dtype="uint32") << SHIFT).view("float32"))


def codes(values: np.ndarray) -> np.ndarray:
    """The codes of all values in one row, for `count_codes`."""
    bits = np.ascontiguousarray(values, "float32").view("uint32").ravel()
    return (bits >> SHIFT).astype("intp")


def count_codes(coded: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The number of values in each bin around `CENTERS`, or the sum of their weights.

    Args:
        coded: the `codes` of the values.
    """
    by_code = np.bincount(coded, weights, minlength=len(_BIN_OF_CODE))
    return np.bincount(_BIN_OF_CODE, by_code, minlength=len(CENTERS))


def cheapest_range(
    low: float,
    high: float,
    *,
    rounding_cost: Callable[[Any, Any], Any],
    clipping_costs: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> tuple[float, float, float]:
    """The (low, high) within a range where rounding and clipping cost least, and that cost.

    Args:
        low: at most 0.
        high: at least 0.
        rounding_cost: (low, high) -> the cost of rounding within them.
        clipping_costs: (lows, highs) -> the costs below each low, and above each high.
    """
    shares = np.geomspace(0.05, 1, 50)
    lows, highs = np.unique(low * shares), high * shares
    below, above = clipping_costs(lows, highs)
    cost = rounding_cost(lows[:, None], highs) + below[:, None] + above
    i, j = np.unravel_index(cost.argmin(), cost.shape)
    return float(lows[i]), float(highs[j]), float(cost[i, j])


@dataclass(frozen=True)
class Histogram:
    """The values of a tensor.

    Attributes:
        counts: number of values in each bin around `CENTERS`.
        low: the smallest value, at most 0.
        high: the largest value, at least 0.
    """

    counts: np.ndarray
    low: float
    high: float

    def percentile(self, percentile: float) -> Range:
        """(low, high) that covers this percentage of the values, and 0.

        Half of the rest lies below and half above, as in the calibration of onnxruntime: 99.9
        leaves out 0.05 % on either side.
        """
        # The outermost bins are wider than the values in them.
        edges = np.clip(EDGES, self.low, self.high)
        shares = np.append(0.0, self.counts.cumsum()) / self.counts.sum()
        left_out = (1 - percentile / 100) / 2
        low, high = np.interp([left_out, 1 - left_out], shares, edges)
        return min(float(low), 0.0), max(float(high), 0.0)

    def least_squares(self) -> Range:
        """(low, high) with the smallest squared error of rounding and clipping together."""
        centers = np.clip(CENTERS, self.low, self.high)

        def clipping_errors(lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            below = np.maximum(lows - centers[:, None], 0)
            above = np.maximum(centers[:, None] - highs, 0)
            return self.counts @ np.square(below), self.counts @ np.square(above)

        low, high, _ = cheapest_range(
            self.low,
            self.high,
            rounding_cost=self._rounding_error,
            clipping_costs=clipping_errors,
        )
        return low, high

    def _rounding_error(self, low: Any, high: Any) -> Any:
        """The squared error of rounding all values within a range.

        For most values it is a twelfth of the squared step. A value nearer to 0 than half a step
        becomes 0. A value of 0 has no error; half of what a ReLU returns is 0.
        """
        magnitudes = CENTERS[_HALF:]
        counts = self.counts[_HALF:] + self.counts[_HALF - 1 :: -1]
        error_of_small = np.append(0.0, (counts * np.square(magnitudes)).cumsum())
        num_others = counts.sum() - np.append(0.0, counts.cumsum())
        step = (high - low) / LEVELS
        index = np.searchsorted(magnitudes, step / 2)
        return error_of_small[index] + num_others[index] * np.square(step) / 12
