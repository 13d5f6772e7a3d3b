"""Tests of a difference between two classifiers, and how likely a test shows a drop."""

import math

import numpy as np


def mcnemar_p(only_first: int, only_second: int) -> float:
    """The two-sided exact p-value that two classifiers are equally often right.

    Args:
        only_first: examples that only the first gets right.
        only_second: examples that only the second gets right.

    Source: McNemar 1947, Psychometrika 12, in its exact binomial form.
    """
    from scipy.stats import binomtest

    if only_first == only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def mcnemar_power(*, n: int, drop: float, discordant: float) -> float:
    """How likely `mcnemar_p` shows a drop: a p-value below 0.05, on the right side.

    It is the sum over the number of discordant examples and over how they fall, which both are
    binomial (Miettinen 1968, Biometrics 24, p. 339).

    Args:
        n: examples in the test set.
        drop: by how much the second classifier is right less often, > 0.
        discordant: share of examples that exactly one of the two gets right, at least `drop`.
    """
    from scipy.stats import binom

    spread = 8 * math.sqrt(n * discordant * (1 - discordant)) + 8
    first, last = int(n * discordant - spread), int(n * discordant + spread)
    # Every number of discordant examples, or of very many about two hundred, evenly spaced.
    counts = np.arange(max(first, 1), min(last, n) + 1, max((last - first) // 200, 1))
    chances = binom.pmf(counts, n, discordant)
    # The most examples that the second may win so that p < 0.05; -1 where no number is few enough.
    most_won = binom.ppf(0.025, counts, 0.5) - 1
    shown = binom.cdf(most_won, counts, (1 - drop / discordant) / 2)
    # Without a discordant example nothing shows. The chances of the other counts add up to the
    # rest, and dividing by their sum makes up for the counts that are left out.
    none = binom.pmf(0, n, discordant)
    return float((1 - none) * (chances * shown).sum() / chances.sum())


def detectable_drop(*, n: int, discordant: float, power: float = 0.8) -> float:
    """The smallest drop that `n` examples show with this power; 1 where they show none.

    Args:
        discordant: as in `mcnemar_power`; it grows to the drop where the drop is larger.
    """
    low, high = 0.0, 1.0
    while high - low > 0.0002:
        middle = (low + high) / 2
        reached = mcnemar_power(n=n, drop=middle, discordant=max(discordant, middle))
        low, high = (low, middle) if reached >= power else (middle, high)
    return high


def sign_flip_p(differences: np.ndarray, num_samples: int = 10_000) -> float:
    """The two-sided p-value that the mean of paired differences is 0.

    It is the share of random swaps within pairs that put the mean at least as far from 0 (Fisher
    1935, The Design of Experiments, section 21); the observed one counts as a swap. Ours, because
    scipy.stats.permutation_test draws other swaps, and a run shall keep its p-value.

    Args:
        differences: float, (examples,).
    """
    rng = np.random.default_rng(0)
    nonzero = differences[differences != 0]  # swapping equal values changes nothing
    observed, num_extreme = abs(nonzero.sum()), 0
    for start in range(0, num_samples, 500):
        signs = rng.integers(0, 2, (min(500, num_samples - start), len(nonzero))) * 2 - 1
        # Sums in another order differ in the last bits.
        num_extreme += int((np.abs(signs @ nonzero) >= observed - 1e-9).sum())
    return (num_extreme + 1) / (num_samples + 1)
