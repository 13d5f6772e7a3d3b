import math

import numpy as np
import pytest

from eval.scoring.statistics import (
    calibration_interval,
    detectable_drop,
    expected_calibration_error,
    expected_drop,
    fitted_temperature,
    macro_f1,
    mcnemar_p,
    mcnemar_power,
    mean_interval,
    median_interval,
    negative_log_likelihood,
    paired_bootstrap,
    paired_interval,
    sign_flip_p,
    top_k,
    wilson_interval,
)


def test_wilson_interval_of_a_published_value() -> None:
    # 81 of 263: Newcombe 1998, Statistics in Medicine 17, table I, method 3
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_interval_at_the_ends() -> None:
    # None of n: from 0 to z**2 / (n + z**2), with z**2 = 3.8415
    assert wilson_interval(0, 10) == pytest.approx((0, 3.8415 / 13.8415), abs=1e-5)
    assert wilson_interval(10, 10) == pytest.approx((10 / 13.8415, 1), abs=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


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
    assert mcnemar_p(only_first, only_second) == pytest.approx(p, rel=1e-9)


def test_mcnemar_agrees_with_scipy_where_powers_of_two_overflow() -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(2400, 5000).pvalue
    assert mcnemar_p(2400, 2600) == pytest.approx(expected, rel=1e-8)


def test_top_k_counts_labels_among_the_best() -> None:
    probs = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    labels = np.array([0, 1, 2, 2])
    assert [top_k(probs, labels, k) for k in (1, 2, 3, 5)] == [0.5, 0.75, 1.0, 1.0]


def test_negative_log_likelihood_is_bounded_where_a_probability_is_zero() -> None:
    probs = np.array([[0.5, 0.5], [1.0, 0.0]])
    expected = (np.log(2) + np.log(1e7)) / 2
    assert negative_log_likelihood(probs, np.array([0, 1])) == pytest.approx(expected)


def test_calibration_error_is_the_gap_weighted_by_bin() -> None:
    # Three answers at 0.9, two of them right; one at 0.6, right: (3 |2/3 - 0.9| + |1 - 0.6|) / 4
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 0])
    assert expected_calibration_error(probs, labels) == pytest.approx((0.7 + 0.4) / 4)


def test_a_sure_and_right_model_is_calibrated() -> None:
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0


def test_macro_f1_weighs_classes_alike() -> None:
    # Class 0: 2 * 3 / (4 + 3) = 6/7; class 1: 0 right, so 0; class 2: 1
    predicted, labels = np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 1, 2])
    assert macro_f1(predicted, labels) == pytest.approx((6 / 7 + 0 + 1) / 3)


def test_the_bootstrap_of_one_seed_agrees_with_the_normal_interval() -> None:
    # 60 of 1000 photos won and 40 lost: mean 0.02, deviation sqrt(0.1 - 0.02**2)
    differences = np.zeros((1, 1000))
    differences[0, :60], differences[0, 60:100] = 1, -1
    low, high = paired_bootstrap(differences)
    half = 1.96 * np.sqrt(0.1 - 0.02**2) / np.sqrt(1000)
    # 2000 samples put a percentile within a tenth of the interval.
    assert low == pytest.approx(0.02 - half, abs=0.2 * half)
    assert high == pytest.approx(0.02 + half, abs=0.2 * half)


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
    drawn = rng.multinomial(n, chances, size=4000)
    shown = np.mean([lost > won and mcnemar_p(won, lost) < 0.05 for lost, won, _ in drawn])
    # Four standard deviations of a share of 4,000
    assert mcnemar_power(n=n, drop=drop, discordant=discordant) == pytest.approx(shown, abs=0.032)


def test_power_of_one_sided_changes_matches_a_binomial_worked_by_hand() -> None:
    # Every change is a loss, so six changes are needed: 2 * (1/2)**6 < 0.05 < 2 * (1/2)**5
    few = sum(math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(6))
    assert mcnemar_power(n=20, drop=0.3, discordant=0.3) == pytest.approx(1 - few, rel=1e-9)


@pytest.mark.parametrize(("n", "discordant"), [(400, 0.0), (400, 0.05), (3000, 0.02)])
def test_the_detectable_drop_is_where_power_reaches_four_fifths(n: int, discordant: float) -> None:
    drop = detectable_drop(n=n, discordant=discordant)
    for factor, reached in ((0.9, False), (1.1, True)):
        some = factor * drop
        power = mcnemar_power(n=n, drop=some, discordant=max(discordant, some))
        assert (power >= 0.8) == reached


def test_power_of_a_great_many_changes_is_found_from_some_of_them() -> None:
    # Half of 20,000 discordant: the normal approximation of the test is good there
    n, drop, discordant = 20_000, 0.02, 0.5
    z = (drop * math.sqrt(n) - 1.959964 * math.sqrt(discordant)) / math.sqrt(discordant - drop**2)
    expected = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    found = mcnemar_power(n=n, drop=drop, discordant=discordant)
    assert found == pytest.approx(expected, abs=0.01)


def test_the_interval_of_a_median_lies_between_two_of_the_values() -> None:
    values = np.random.default_rng(0).permutation(20).astype(float)
    # Tails of 20 coins: 2 * (1 + 20 + 190 + 1140 + 4845) / 2**20 = 0.0118, with one more 0.0414
    assert median_interval(values) == (4, 15)
    assert median_interval(values, confidence=0.95) == (5, 14)
    assert median_interval(values[:7], confidence=0.98) == (values[:7].min(), values[:7].max())


def test_too_few_values_have_no_interval_of_their_median() -> None:
    # The least and the largest of six hold the median with 1 - 2 / 64 = 96.9 %.
    assert median_interval(np.arange(6.0)) is None
    assert median_interval(np.arange(6.0), confidence=0.96) == (0, 5)
    assert median_interval(np.zeros(0)) is None


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [median_interval(rng.exponential(1.0, 20)) for _ in range(4000)]
    held = [low <= math.log(2) <= high for low, high in filter(None, intervals)]
    assert np.mean(held) == pytest.approx(0.9882, abs=0.006)  # 3.5 standard errors


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(0, 0, 820), (5, 0, 60), (14, 6, 300), (90, 86, 400)]
)
def test_the_interval_of_a_difference_is_where_the_likeliest_shares_are_rejected(
    lost: int, won: int, n: int
) -> None:
    """Tango's score test anew: the likelihood is maximised numerically, not in closed form."""
    optimize, stats = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.stats")

    def score(difference: float) -> float:
        def unlikely(only_won: float) -> float:
            shares = only_won + difference, only_won, 1 - 2 * only_won - difference
            logs = np.log(np.maximum(shares, 1e-300))
            return -float(np.dot([lost, won, n - lost - won], logs))

        ends = max(0.0, -difference), (1 - difference) / 2
        only_won = optimize.minimize_scalar(
            unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}
        ).x
        spread = n * (2 * only_won + difference * (1 - difference))
        return (lost - won - n * difference) ** 2 / spread

    limit = stats.chi2.ppf(0.95, 1)
    for end in paired_interval(only_first=lost, only_second=won, n=n):
        assert score(end) == pytest.approx(limit, rel=1e-3)


def test_the_interval_of_a_difference_covers_it() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(400, [0.05, 0.02, 0.93], size=500)
    found = [paired_interval(only_first=a, only_second=b, n=400) for a, b, _ in drawn]
    # A deviation of a share of 500 is 0.01.
    assert np.mean([low <= 0.03 <= high for low, high in found]) == pytest.approx(0.95, abs=0.03)


def test_where_nothing_differs_the_interval_is_that_of_a_rare_event() -> None:
    # z**2 / (n + z**2): all differences that n equal pairs do not rule out
    end = 3.8415 / (820 + 3.8415)
    found = paired_interval(only_first=0, only_second=0, n=820)
    assert found == pytest.approx((-end, end), abs=1e-6)


@pytest.mark.parametrize("overconfidence", [0.0, 0.03, 0.1])
def test_the_interval_of_the_calibration_error_covers_it(overconfidence: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        confidence = rng.uniform(0.5, 1, 500)
        right = rng.random(500) < confidence - overconfidence
        probs = np.stack([confidence, 1 - confidence], axis=1)
        low, high = calibration_interval(probs, np.where(right, 0, 1), num_samples=300)
        covered += low <= overconfidence <= high  # the true error: bins are exact in the limit
    assert covered >= 34  # 95 % of 40 is 38; less than 34 has a chance of 1 in 70


def test_chance_alone_makes_a_calibration_error_and_the_interval_knows() -> None:
    rng = np.random.default_rng(0)
    num_from_zero = 0
    for _ in range(40):
        confidence = rng.uniform(0.5, 1, 500)
        probs = np.stack([confidence, 1 - confidence], axis=1)
        labels = np.where(rng.random(500) < confidence, 0, 1)
        assert expected_calibration_error(probs, labels) > 0.01
        num_from_zero += calibration_interval(probs, labels, num_samples=300)[0] == 0
    assert num_from_zero >= 35  # 97.5 % of 40 is 39; less than 35 has a chance of 1 in 1,000


def test_a_sure_and_right_model_has_a_calibration_error_of_nothing() -> None:
    assert calibration_interval(np.eye(3), np.arange(3)) == (0, 0)


def test_the_interval_of_a_mean_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).normal(0.1, 0.3, 400)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values, ddof=0))
    assert mean_interval(values) == pytest.approx(expected, rel=1e-9)


def test_the_bootstrap_agrees_with_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    differences = rng.choice([-1.0, 0.0, 0.5, 1.0], p=[0.04, 0.8, 0.06, 0.1], size=400)
    expected = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=4000, rng=rng
    ).confidence_interval
    # Two percentiles of 2,000 and 4,000 samples: a twentieth of the interval
    found = paired_bootstrap(differences[None])
    assert found == pytest.approx(tuple(expected), abs=0.1 * (expected.high - expected.low))


@pytest.mark.parametrize(("won", "lost"), [(3, 11), (0, 8), (40, 41), (120, 90)])
def test_mcnemar_agrees_with_scipys_binomial_test(won: int, lost: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert mcnemar_p(won, lost) == pytest.approx(stats.binomtest(won, won + lost).pvalue, rel=1e-9)


def test_the_temperature_of_probabilities_that_are_too_sure_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.uniform(size=(20_000, 1)) > true.cumsum(axis=1)).sum(axis=1)
    sure = true**2 / (true**2).sum(axis=1, keepdims=True)
    # Candidates are 3.5 % apart.
    assert fitted_temperature(sure, labels) == pytest.approx(2, rel=0.06)
    assert fitted_temperature(true, labels) == pytest.approx(1, rel=0.06)


def test_an_answer_that_rounding_changed_costs_what_the_source_was_surer_of_its_own() -> None:
    # Probabilities that are right: three of four answers of 0.75 are.
    labels, source = np.array([0, 0, 0, 1]), np.tile([[0.75, 0.25]], (4, 1))
    file = np.array([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.4, 0.6]])
    mean, low, high = expected_drop(file, source, labels)
    # One of four costs 0.75 - 0.25: mean 1/8, deviation sqrt(1/16 - 1/64) = 0.2165, of four 0.1083.
    assert mean == pytest.approx(0.125, abs=1e-6)
    assert (low, high) == (0, pytest.approx(0.125 + 1.96 * 0.10825, abs=1e-3))
    assert expected_drop(source, source, labels)[:2] == (0, 0)


def test_the_expected_drop_varies_less_than_the_counted_one_and_means_the_same() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(400, 3))
    source = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counted, expected = [], []
    for _ in range(100):
        labels = (rng.uniform(size=(400, 1)) > source.cumsum(axis=1)).sum(axis=1)
        file = np.exp(logits + rng.normal(size=logits.shape) * 0.5)
        right = [(each.argmax(axis=1) == labels).mean() for each in (source, file)]
        counted.append(right[0] - right[1])
        expected.append(expected_drop(file, source, labels)[0])
    # Of a hundred means, each within 0.0006 or so.
    assert np.mean(expected) == pytest.approx(np.mean(counted), abs=0.004)
    assert np.std(expected) < 0.5 * np.std(counted)


def test_the_interval_of_a_median_of_very_many_values() -> None:
    low, high = median_interval(np.arange(2000.0)) or (0, 0)
    # A median of n values lies within 2.33 sqrt(n) / 2 places with 98 %.
    assert (low, high) == (pytest.approx(948, abs=2), pytest.approx(1051, abs=2))
