"""Intervals, against published values, closed forms and simulations."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from eval.scoring.intervals import (
    mean_interval,
    median_interval,
    paired_bootstrap,
    paired_interval,
    wilson_interval,
)


def test_wilson_interval_of_a_published_value() -> None:
    # 81 of 263: Newcombe 1998, Statistics in Medicine 17, table I, method 3
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (1, 3), (77, 4000)])
def test_wilson_interval_is_the_closed_form(successes: int, n: int) -> None:
    share, z = successes / n, 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert wilson_interval(successes, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_wilson_interval_of_no_example_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


def test_the_bootstrap_of_one_seed_agrees_with_the_normal_interval() -> None:
    # 60 of 1000 photos won and 40 lost: mean 0.02, deviation sqrt(0.1 - 0.02**2)
    differences = np.zeros((1, 1000))
    differences[0, :60], differences[0, 60:100] = 1, -1
    low, high = paired_bootstrap(differences)
    half = 1.96 * np.sqrt(0.1 - 0.02**2) / np.sqrt(1000)
    # 2000 samples put a percentile within a tenth of the interval.
    assert low == pytest.approx(0.02 - half, abs=0.2 * half)
    assert high == pytest.approx(0.02 + half, abs=0.2 * half)


def test_the_bootstrap_agrees_with_scipys() -> None:
    rng = np.random.default_rng(0)
    differences = rng.choice([-1.0, 0.0, 0.5, 1.0], p=[0.04, 0.8, 0.06, 0.1], size=400)
    expected = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=4000, rng=rng
    ).confidence_interval
    # The percentiles of 2,000 and of 4,000 samples differ by a twentieth of the interval.
    interval = paired_bootstrap(differences[None])
    assert interval == pytest.approx(tuple(expected), abs=0.1 * (expected.high - expected.low))


def test_the_interval_of_a_median_lies_between_two_of_the_values() -> None:
    values = np.random.default_rng(0).permutation(20).astype(float)
    # Tails of 20 coins: 2 * (1 + 20 + 190 + 1140 + 4845) / 2**20 = 0.0118, with one more 0.0414
    assert median_interval(values) == (4, 15)
    assert median_interval(values, confidence=0.95) == (5, 14)
    assert median_interval(values[:7], confidence=0.98) == (values[:7].min(), values[:7].max())


def test_too_few_values_have_no_interval_of_their_median() -> None:
    # The smallest and the largest of six hold the median with 1 - 2 / 64 = 96.9 %.
    assert median_interval(np.arange(6.0)) is None
    assert median_interval(np.arange(6.0), confidence=0.96) == (0, 5)
    assert median_interval(np.zeros(0)) is None


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [median_interval(rng.exponential(1.0, 20)) for _ in range(4000)]
    held = [low <= math.log(2) <= high for low, high in filter(None, intervals)]
    assert np.mean(held) == pytest.approx(0.9882, abs=0.006)  # 3.5 standard errors


@pytest.mark.parametrize("n", [7, 20, 101, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("confidence", [0.98, 0.95])
def test_the_interval_of_a_median_is_the_widest_that_exact_tails_allow(
    n: int, confidence: float
) -> None:
    # Integers, because 2**2000 is no float.
    below = [sum(math.comb(n, k) for k in range(end + 1)) for end in range(n // 2)]
    allowed = round(1e6 * (1 - confidence)) * 2**n
    rank = sum(2_000_000 * tail <= allowed for tail in below)
    expected = None if rank == 0 else (rank - 1, n - rank)
    assert median_interval(np.arange(float(n)), confidence) == expected


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(0, 0, 820), (5, 0, 60), (14, 6, 300), (90, 86, 400)]
)
def test_the_interval_of_a_difference_is_where_the_likeliest_shares_are_rejected(
    lost: int, won: int, n: int
) -> None:
    """Tango's score test once more: the likelihood is maximised numerically, not in closed form."""

    def score(difference: float) -> float:
        def unlikely(only_won: float) -> float:
            shares = only_won + difference, only_won, 1 - 2 * only_won - difference
            logs = np.log(np.maximum(shares, 1e-300))
            return -float(np.dot([lost, won, n - lost - won], logs))

        ends = max(0.0, -difference), (1 - difference) / 2
        only_won = optimize.minimize_scalar(
            unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}
        ).x
        variance = n * (2 * only_won + difference * (1 - difference))
        return (lost - won - n * difference) ** 2 / variance

    limit = stats.chi2.ppf(0.95, 1)
    for end in paired_interval(only_first=lost, only_second=won, n=n):
        assert score(end) == pytest.approx(limit, rel=1e-3)


def test_the_interval_of_a_difference_covers_it() -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(400, [0.05, 0.02, 0.93], size=500)
    intervals = [paired_interval(only_first=a, only_second=b, n=400) for a, b, _ in counts]
    # The standard deviation of a share of 500 is 0.01.
    assert np.mean([low <= 0.03 <= high for low, high in intervals]) == pytest.approx(
        0.95, abs=0.03
    )


def test_where_nothing_differs_the_interval_is_that_of_a_rare_event() -> None:
    # z**2 / (n + z**2): all differences that n equal pairs do not rule out
    end = 3.8415 / (820 + 3.8415)
    interval = paired_interval(only_first=0, only_second=0, n=820)
    assert interval == pytest.approx((-end, end), abs=1e-6)


def test_the_interval_of_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.3, 400)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values, ddof=0))
    assert mean_interval(values) == pytest.approx(expected, rel=1e-9)
