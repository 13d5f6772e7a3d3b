"""Tests of differences and their power, against values by hand, closed forms and simulations."""

import math

import numpy as np
import pytest

from eval.scoring.significance import detectable_drop, mcnemar_p, mcnemar_power, sign_flip_p


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 1, 1.0),  # 2 * 1/2
        (0, 5, 1 / 16),  # 2 * 1/32
        (1, 5, 14 / 64),  # 2 * (1 + 6) / 64
        (5, 1, 14 / 64),
    ],
)
def test_mcnemar_matches_binomials_worked_by_hand(
    only_first: int, only_second: int, p: float
) -> None:
    assert mcnemar_p(only_first, only_second) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(3, 11), (0, 8), (40, 41), (120, 90), (2400, 2600)]
)
def test_mcnemar_is_twice_the_smaller_tail(only_first: int, only_second: int) -> None:
    n, fewer = only_first + only_second, min(only_first, only_second)
    # Integers, because 2**5000 is no float.
    tail = 2 * sum(math.comb(n, k) for k in range(fewer + 1))
    expected = tail * 10**18 // 2**n / 1e18
    assert mcnemar_p(only_first, only_second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("won", "lost"), [(9, 3), (30, 10), (5, 5)])
def test_sign_flips_agree_with_mcnemar(won: int, lost: int) -> None:
    differences = np.array([1.0] * won + [-1.0] * lost + [0.0] * 50)
    # 10,000 flips: a standard deviation of 0.005 at most
    assert sign_flip_p(differences) == pytest.approx(mcnemar_p(won, lost), abs=0.02)


def test_pairs_that_never_differ_are_no_evidence() -> None:
    assert sign_flip_p(np.zeros(10)) == 1


@pytest.mark.parametrize(
    ("n", "drop", "discordant"),
    [
        (400, 0.02, 0.03),
        (1000, 0.005, 0.02),
        (1000, 0.02, 0.05),
        (200, 0.05, 0.05),
        (50, 0.1, 0.2),
    ],
)
def test_power_is_the_share_of_simulated_test_sets_that_show_the_drop(
    n: int, drop: float, discordant: float
) -> None:
    rng = np.random.default_rng(0)
    chances = [(discordant + drop) / 2, (discordant - drop) / 2, 1 - discordant]
    counts, times = np.unique(rng.multinomial(n, chances, size=4000), axis=0, return_counts=True)
    shows = [lost > won and mcnemar_p(won, lost) < 0.05 for lost, won, _ in counts]
    # Four standard deviations of a share of 4,000
    share = np.average(shows, weights=times)
    assert mcnemar_power(n=n, drop=drop, discordant=discordant) == pytest.approx(share, abs=0.032)


def test_power_of_one_sided_changes_matches_a_binomial_worked_by_hand() -> None:
    # Every change is a drop, so six changes are needed: 2 * (1/2)**6 < 0.05 < 2 * (1/2)**5
    too_few = sum(math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(6))
    power = mcnemar_power(n=20, drop=0.3, discordant=0.3)
    assert power == pytest.approx(1 - too_few, rel=1e-12)


@pytest.mark.parametrize(("n", "discordant"), [(400, 0.0), (400, 0.05), (3000, 0.02)])
def test_the_detectable_drop_is_where_power_reaches_four_fifths(n: int, discordant: float) -> None:
    smallest = detectable_drop(n=n, discordant=discordant)
    for factor, is_detected in ((0.9, False), (1.1, True)):
        drop = factor * smallest
        power = mcnemar_power(n=n, drop=drop, discordant=max(discordant, drop))
        assert (power >= 0.8) == is_detected


def test_power_of_a_great_many_changes_is_computed_from_a_sample_of_their_numbers() -> None:
    # Half of 20,000 discordant: the normal approximation of the test is good there
    n, drop, discordant = 20_000, 0.02, 0.5
    z = (drop * math.sqrt(n) - 1.959964 * math.sqrt(discordant)) / math.sqrt(discordant - drop**2)
    expected = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    power = mcnemar_power(n=n, drop=drop, discordant=discordant)
    assert power == pytest.approx(expected, abs=0.01)
