from typing import Any

import numpy as np
import pytest

from eval.timing.differences import difference
from eval.timing.latency import Latency
from support import latency_of


def row(times_ms: list[float] | np.ndarray, noise_floor: float | None = 0.05) -> Latency:
    return latency_of(10.0, round_min_ms=tuple(times_ms), noise_floor=noise_floor)


# Seven rounds are the fewest with a 98 % interval; it goes from the least to the largest ratio.
OTHER = [10.0, 10.0, 20.0, 10.0, 30.0, 10.0, 10.0]
RATIOS = np.array([1.04, 1.20, 1.08, 1.10, 1.12, 1.06, 1.15])


def test_a_difference_is_the_median_over_rounds() -> None:
    speed = difference(row(RATIOS * OTHER), row(OTHER))
    assert speed is not None
    assert (speed.ratio, speed.low, speed.high) == pytest.approx((1.10, 1.04, 1.20))
    assert speed.verdict == "slower"
    other_way = difference(row(OTHER), row(RATIOS * OTHER))
    assert other_way is not None
    assert other_way.ratio == pytest.approx(1 / 1.10)
    assert other_way.verdict == "faster"


@pytest.mark.parametrize(
    ("ratios", "noise_floor"),
    [
        (RATIOS, 0.11),  # the ratio lies below the noise floor
        ([0.99, *RATIOS[1:]], 0.05),  # the interval holds 1
        ([1.0] * 7, 0.0),
    ],
)
def test_what_may_be_noise_is_called_no_difference(ratios: Any, noise_floor: float) -> None:
    ours, other = np.array(ratios) * OTHER, row(OTHER, noise_floor)
    speed = difference(row(ours, noise_floor), other)
    assert speed is not None
    assert speed.verdict == "no difference"


def test_there_is_no_difference_without_enough_common_rounds() -> None:
    assert difference(row(OTHER, None), row(OTHER, None)) is None
    assert difference(row(OTHER, 0.05), row(OTHER, 0.06)) is None
    assert difference(row(OTHER), row(OTHER[1:])) is None
