"""95 % intervals: of a share, a difference, a mean and a median."""

import math

import numpy as np

Z_95 = 1.959963984540054


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, Journal of the ASA 22, p. 209).

    Raises:
        ValueError: n is 0.
    """
    from scipy.stats import binomtest

    if n == 0:
        raise ValueError("an interval needs at least one example")
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def paired_interval(*, only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of how much more often the first of two classifiers is right, as a share.

    It holds every difference that the score test does not reject (Tango 1998, Statistics in
    Medicine 17, p. 891, equation 8). So it agrees with McNemar's test, and it has a width even
    where the classifiers never differ. Ours, because scipy has no such interval.

    Args:
        only_first: examples that only the first gets right.
        only_second: examples that only the second gets right.
        n: all examples.
    """
    low = -_largest_difference(only_second, only_first, n)
    return low, _largest_difference(only_first, only_second, n)


def _largest_difference(more: int, fewer: int, n: int) -> float:
    """The largest difference that the score test does not reject, by bisection.

    Args:
        more: examples that only the classifier in question gets right.
        fewer: examples that only the other one gets right.
    """
    low, high = (more - fewer) / n, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        # The likeliest share of examples that only the other gets right, given the difference.
        linear = (2 * n - more + fewer) * middle - more - fewer
        root = math.sqrt(linear**2 + 8 * n * fewer * middle * (1 - middle))
        only_other = (root - linear) / (4 * n)
        variance = n * (2 * only_other + middle * (1 - middle))
        is_accepted = (more - fewer - n * middle) ** 2 <= Z_95**2 * variance
        low, high = (middle, high) if is_accepted else (low, middle)
    return high


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of many values, by the central limit theorem."""
    half = Z_95 * values.std() / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def median_interval(values: np.ndarray, confidence: float = 0.98) -> tuple[float, float] | None:
    """An interval of the median that supposes nothing but independent values.

    It reaches from the k-th smallest to the k-th largest value, for the largest k that keeps the
    confidence (David and Nagaraja 2003, Order Statistics, section 7.1).

    Args:
        values: float, (n,).

    Returns:
        None where there are too few values: fewer than 7 for 98 %.
    """
    from scipy.stats import quantile_test

    if len(values) == 0:
        return None
    interval = quantile_test(values, p=0.5).confidence_interval(confidence)
    low, high = float(interval.low), float(interval.high)
    return None if math.isnan(low) or math.isnan(high) else (low, high)


def paired_bootstrap(differences: np.ndarray, num_samples: int = 2000) -> tuple[float, float]:
    """The 95 % interval of a mean difference, over the chance in photos and in training seeds.

    Photos are drawn again with replacement. So are seeds, where there are several (Efron and
    Tibshirani 1993, An Introduction to the Bootstrap, section 13.3: percentiles). Ours, because
    scipy.stats.bootstrap draws along one axis only.

    Args:
        differences: float, (seeds, examples): what the first of a pair scores more on a photo.
    """
    num_seeds, num_examples = differences.shape
    # Photos with equal differences are drawn together: the chances are the same, and it is faster.
    values, counts = np.unique(differences, axis=1, return_counts=True)
    rng = np.random.default_rng(0)  # the same photos give the same interval
    means = np.empty(num_samples)
    for start in range(0, num_samples, 100):
        stop = min(start + 100, num_samples)
        drawn_counts = rng.multinomial(num_examples, counts / num_examples, stop - start)
        by_seed = drawn_counts @ values.T / num_examples
        drawn_seeds = rng.integers(num_seeds, size=by_seed.shape)
        means[start:stop] = np.take_along_axis(by_seed, drawn_seeds, axis=1).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
