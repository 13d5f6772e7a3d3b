"""Which differences between latencies are real: the noise floor and the interval of a ratio."""

from collections.abc import Sequence

import numpy as np

from eval.scoring.intervals import median_interval
from eval.timing.latency import Latency, SpeedDifference


def noise_floor(first_min_ms: Sequence[float], second_min_ms: Sequence[float]) -> float | None:
    """How far apart a file and itself may lie by chance, as a share.

    Args:
        first_min_ms: the shortest time of each round of a file.
        second_min_ms: the same of that file, timed a second time in the same rounds.

    Returns:
        The end of the 98 % interval of the ratio that lies further from 1, minus 1. None where
        there are too few rounds.
    """
    interval = median_interval(np.log(first_min_ms) - np.log(second_min_ms))
    return None if interval is None else float(np.expm1(max(map(abs, interval))))


def difference(latency: Latency, other: Latency) -> SpeedDifference | None:
    """How many times as long as another file a file takes, if both were timed together.

    The ratio is the median over rounds, with its 98 % interval, of each round's shortest times.
    A disturbance only makes a run longer, so on a busy machine the shortest times vary least (Chen
    and Revels 2016, Robust benchmarking in noisy environments, arXiv:1608.04295). The files differ
    if the interval excludes 1 and the ratio lies beyond the noise floor.

    Returns:
        None where there are too few rounds, or the files were not timed together.
    """
    floor = latency.noise_floor
    if (
        floor is None
        or floor != other.noise_floor
        or len(latency.round_min_ms) != len(other.round_min_ms)
    ):
        return None
    logs = np.log(latency.round_min_ms) - np.log(other.round_min_ms)
    interval, middle = median_interval(logs), float(np.median(logs))
    if interval is None:
        return None
    low, high = interval
    is_real = (low > 0 or high < 0) and abs(middle) > np.log1p(floor)
    low, ratio, high = (float(np.exp(value)) for value in (low, middle, high))
    if not is_real:
        return SpeedDifference(ratio, low, high, "no difference")
    return SpeedDifference(ratio, low, high, "slower" if middle > 0 else "faster")
