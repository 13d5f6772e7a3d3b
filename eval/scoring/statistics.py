"""Intervals, tests and scores of classifications; numpy alone."""

import math

import numpy as np

Z_95 = 1.959963984540054


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of a share (Wilson 1927, Journal of the ASA 22, p. 209), 95 % by default.

    Raises:
        ValueError: n is 0.
    """
    if n == 0:
        raise ValueError("an interval needs at least one example")
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # The ends are exact at 0 and n; rounding must not put them outside.
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that two classifiers are equally often right.

    Args:
        only_first: examples that only the first gets right.
        only_second: examples that only the second gets right.

    Source: McNemar 1947, Psychometrika 12, in its exact binomial form.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    # Logarithms: 2**n leaves the range of floats at a thousand discordant examples.
    terms = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(2 * sum(math.exp(term) for term in terms), 1.0)


def paired_interval(*, only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """95 % interval of how much more often the first of two classifiers is right, as a share.

    Holds every difference that the score test does not reject, so it goes with McNemar's test and
    has a width even where no example tells the two apart (Tango 1998, Statistics in Medicine 17, p.
    891, equation 8).

    Args:
        only_first: examples that only the first gets right.
        only_second: examples that only the second gets right.
        n: all examples.
    """

    def upper(more: int, fewer: int) -> float:
        """The largest difference that is not rejected; the score falls as the difference grows."""
        low, high = (more - fewer) / n, 1.0
        while high - low > 1e-7:
            middle = (low + high) / 2
            # The likeliest share of examples that only the second gets right, given the difference.
            linear = (2 * n - more + fewer) * middle - more - fewer
            root = math.sqrt(linear**2 + 8 * n * fewer * middle * (1 - middle))
            only_fewer = (root - linear) / (4 * n)
            spread = n * (2 * only_fewer + middle * (1 - middle))
            kept = (more - fewer - n * middle) ** 2 <= Z_95**2 * spread
            low, high = (middle, high) if kept else (low, middle)
        return high

    return -upper(only_second, only_first), upper(only_first, only_second)


def mcnemar_power(*, n: int, drop: float, discordant: float) -> float:
    """How likely `mcnemar_p` shows a drop, below 0.05 and on the right side.

    Exact: summed over the number of discordant examples and how they fall, both binomial (Miettinen
    1968, Biometrics 24, p. 339).

    Args:
        n: examples in the test set.
        drop: by how much the second classifier is right less often, > 0.
        discordant: share of examples that exactly one of the two gets right, at least `drop`.
    """
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    spread = 8 * math.sqrt(n * discordant * (1 - discordant)) + 8
    first, last = int(n * discordant - spread), int(n * discordant + spread)
    # Every number of discordant examples, or of very many some two hundred evenly.
    counts = range(max(first, 1), min(last, n) + 1, max((last - first) // 200, 1))
    chances = np.array([_binomial(log_factorials, n, discordant, np.array(m)) for m in counts])
    shown = np.array([_shown(log_factorials, m, drop / discordant) for m in counts])
    # None discordant shows nothing; the sum of the others is 1 but for that and the left out.
    none = _binomial(log_factorials, n, discordant, np.array(0))
    return float((1 - none) * (chances * shown).sum() / chances.sum())


def _shown(log_factorials: np.ndarray, count: int, lopsided: float) -> float:
    """Chance that so many discordant examples fall lopsided enough to have p < 0.05."""
    wins = np.arange(count // 2 + 1)
    tail = 2 * np.cumsum(_binomial(log_factorials, count, 0.5, wins))
    enough = wins[tail < 0.05]
    return float(_binomial(log_factorials, count, (1 - lopsided) / 2, enough).sum())


def _binomial(log_factorials: np.ndarray, n: int, share: float, k: np.ndarray) -> np.ndarray:
    """Probabilities of k successes in n."""
    if share in (0.0, 1.0):
        return (k == n * share).astype("float64")
    ways = log_factorials[n] - log_factorials[k] - log_factorials[n - k]
    return np.asarray(np.exp(ways + k * math.log(share) + (n - k) * math.log(1 - share)))


def detectable_drop(*, n: int, discordant: float, power: float = 0.8) -> float:
    """The smallest drop that `n` examples show with this power; 1 where they show none.

    Args:
        discordant: as in `mcnemar_power`; a drop makes at least as many discordant as it is large.
    """
    low, high = 0.0, 1.0
    while high - low > 0.0002:
        middle = (low + high) / 2
        reached = mcnemar_power(n=n, drop=middle, discordant=max(discordant, middle))
        low, high = (low, middle) if reached >= power else (middle, high)
    return high


def fitted_temperature(probs: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which probabilities fit the labels best, of 1/8 to 8.

    Source: Guo et al. 2017, section 4.2 (arXiv:1706.04599): least negative log-likelihood.
    """
    candidates = np.geomspace(1 / 8, 8, 121)

    def loss(temperature: float) -> float:
        return negative_log_likelihood(_tempered(probs, temperature), labels)

    return float(min(candidates, key=loss))


def _tempered(probs: np.ndarray, temperature: float) -> np.ndarray:
    logits = np.log(np.maximum(probs.astype("float64"), 1e-12)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def expected_drop(
    probs: np.ndarray, source_probs: np.ndarray, labels: np.ndarray
) -> tuple[float, float, float]:
    """Top-1 that rounding a model is expected to cost, and the ends of its 95 % interval.

    An answer that rounding changed costs what the model itself thought more likely of its own
    answer than of the new one, its probabilities calibrated on the labels. That rounding errors
    know nothing of the truth beyond the model is what this takes for granted: it is for files of
    the same model, not for another one. A few hundred photos tell so what counting right answers
    tells on several thousand, for counting adds the chance of each label (a Rao-Blackwell estimate
    of the drop; docs/LOG.md compares the two).

    Where no answer changed the upper end is that of `paired_interval`, z^2 / (n + z^2): what n
    photos did not show may yet happen to so many.

    Args:
        probs: of the rounded model, (examples, classes).
        source_probs: of the model itself.
        labels: to calibrate `source_probs` by.
    """
    own, new = source_probs.argmax(axis=1), probs.argmax(axis=1)
    if (own == new).all():
        return 0.0, 0.0, Z_95**2 / (len(labels) + Z_95**2)
    calibrated = _tempered(source_probs, fitted_temperature(source_probs, labels))
    at = np.arange(len(labels))
    lost = calibrated[at, own] - calibrated[at, new]
    half = Z_95 * float(lost.std()) / math.sqrt(len(lost))
    mean = float(lost.mean())
    return mean, max(mean - half, 0.0), mean + half


def paired_bootstrap(differences: np.ndarray, num_samples: int = 2000) -> tuple[float, float]:
    """95 % interval of a mean difference, over the chance in photos and in training seeds.

    Photos are drawn again with replacement, and seeds, where there are several, too (Efron and
    Tibshirani 1993, An Introduction to the Bootstrap, section 13.3: percentiles).

    Args:
        differences: float, (seeds, examples): what the first of a pair scores more on a photo.
    """
    num_seeds, num_examples = differences.shape
    # Photos on which all is alike are drawn together: the same chances, and a few values to draw.
    values, times = np.unique(differences, axis=1, return_counts=True)
    rng = np.random.default_rng(0)  # the same photos give the same interval
    means = np.empty(num_samples)
    for start in range(0, num_samples, 100):
        stop = min(start + 100, num_samples)
        counts = rng.multinomial(num_examples, times / num_examples, stop - start)
        by_seed = counts @ values.T / num_examples
        drawn = rng.integers(num_seeds, size=by_seed.shape)
        means[start:stop] = np.take_along_axis(by_seed, drawn, axis=1).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def median_interval(values: np.ndarray, confidence: float = 0.98) -> tuple[float, float] | None:
    """An interval of the median that supposes nothing of the values but that they are independent.

    From the k-th smallest to the k-th largest, for the largest k that keeps the confidence (David
    and Nagaraja 2003, Order Statistics, section 7.1).

    Args:
        values: float, (n,).

    Returns:
        None where the values are too few: fewer than 7 for 98 %.
    """
    n = len(values)
    ways = np.cumsum([math.comb(n, k) for k in range(n)], dtype=object)
    millionths = round(1e6 * (1 - confidence))  # of integers: 2**1024 is no float any more
    k = sum(2_000_000 * int(below) <= millionths * 2**n for below in ways)
    if k == 0:
        return None
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[-k])


def sign_flip_p(differences: np.ndarray, num_samples: int = 10_000) -> float:
    """Two-sided p-value that the mean of paired differences is 0.

    The share of random swaps within pairs that put the mean at least as far from 0 (Fisher 1935,
    The Design of Experiments, section 21); the observed one counts as one of them.

    Args:
        differences: float, (examples,).
    """
    rng = np.random.default_rng(0)
    told = differences[differences != 0]  # the others swap to themselves
    observed, extreme = abs(told.sum()), 0
    for start in range(0, num_samples, 500):
        signs = rng.integers(0, 2, (min(500, num_samples - start), len(told))) * 2 - 1
        # Sums of other orders differ in the last bits.
        extreme += int((np.abs(signs @ told) >= observed - 1e-9).sum())
    return (extreme + 1) / (num_samples + 1)


def top_k(probs: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of examples whose label is among the k most probable classes."""
    best = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def negative_log_likelihood(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln p(label); probabilities below 1e-7, as int8 files give, count as 1e-7."""
    return float(-np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-7)).mean())


def calibration_gaps(probs: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> np.ndarray:
    """By how much each example was right more than it was sure, in the column of its bin.

    Returns:
        float, (examples, bins): right (0 or 1) less confidence in one column, 0 in the others.
    """
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.zeros((len(labels), num_bins))
    gaps[np.arange(len(labels)), bins] = right - confidence
    return gaps


def expected_calibration_error(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of confidence from accuracy over 15 bins of equal width.

    Source: Guo et al. 2017, section 2, equation 3 (arXiv:1706.04599).
    """
    return float(np.abs(calibration_gaps(probs, labels).mean(axis=0)).sum())


def calibration_interval(
    probs: np.ndarray, labels: np.ndarray, num_samples: int = 1000
) -> tuple[float, float]:
    """95 % interval of the calibration error of `expected_calibration_error`.

    Chance adds to the error but never takes from it: a calibrated model shows one too, and
    resampling the photos adds more. So the interval holds every error, of the shape that was seen,
    under which an error like the one seen is no surprise: 0 if chance alone explains it.
    """
    gaps = calibration_gaps(probs, labels)
    mean = gaps.mean(axis=0)
    seen = float(np.abs(mean).sum())
    chance = np.random.default_rng(0).multivariate_normal(
        np.zeros(len(mean)), np.cov(gaps.T, bias=True) / len(gaps), num_samples, method="eigh"
    )

    def at_quantile(factor: float, quantile: float) -> float:
        return float(np.quantile(np.abs(factor * mean + chance).sum(axis=1), quantile))

    def factor_of(quantile: float) -> float:
        """How much larger the true error than the seen one so that this much lies below it."""
        low, high = 0.0, 1.0
        if at_quantile(low, quantile) >= seen:
            return 0.0
        while at_quantile(high, quantile) < seen:
            high *= 2
        while high - low > 0.005:
            middle = (low + high) / 2
            low, high = (middle, high) if at_quantile(middle, quantile) < seen else (low, middle)
        return high

    return factor_of(0.975) * seen, factor_of(0.025) * seen


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of many values, by the central limit theorem."""
    half = Z_95 * values.std() / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 over the classes that are a label or an answer of at least one example."""
    scores = []
    for label in np.union1d(predicted, labels):
        right = ((predicted == label) & (labels == label)).sum()
        scores.append(2 * right / ((predicted == label).sum() + (labels == label).sum()))
    return float(np.mean(scores))
