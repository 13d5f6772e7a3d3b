"""Calibration and likelihood, worked by hand and simulated."""

import numpy as np
import pytest

from eval.scoring.calibration import (
    calibration_interval,
    expected_calibration_error,
    fitted_temperature,
    negative_log_likelihood,
)


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


@pytest.mark.parametrize("overconfidence", [0.0, 0.03, 0.1])
def test_the_interval_of_the_calibration_error_covers_it(overconfidence: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        confidence = rng.uniform(0.5, 1, 500)
        right = rng.random(500) < confidence - overconfidence
        probs = np.stack([confidence, 1 - confidence], axis=1)
        low, high = calibration_interval(probs, np.where(right, 0, 1), num_samples=300)
        covered += low <= overconfidence <= high  # the true error, in the limit of many photos
    assert covered >= 34  # 95 % of 40 is 38; less than 34 has a chance of 1 in 70


def test_the_interval_begins_at_zero_where_chance_alone_explains_the_error() -> None:
    rng = np.random.default_rng(0)
    num_from_zero = 0
    for _ in range(40):
        confidence = rng.uniform(0.5, 1, 500)
        probs = np.stack([confidence, 1 - confidence], axis=1)
        labels = np.where(rng.random(500) < confidence, 0, 1)
        assert expected_calibration_error(probs, labels) > 0.01
        num_from_zero += calibration_interval(probs, labels, num_samples=300)[0] == 0
    assert num_from_zero >= 35  # 97.5 % of 40 is 39; less than 35 has a chance of 1 in 1,000


def test_the_interval_of_a_sure_and_right_model_is_zero() -> None:
    assert calibration_interval(np.eye(3), np.arange(3)) == (0, 0)


def test_the_temperature_of_overconfident_probabilities_is_fitted() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.uniform(size=(20_000, 1)) > true.cumsum(axis=1)).sum(axis=1)
    overconfident = true**2 / (true**2).sum(axis=1, keepdims=True)
    # Candidates are 3.5 % apart.
    assert fitted_temperature(overconfident, labels) == pytest.approx(2, rel=0.06)
    assert fitted_temperature(true, labels) == pytest.approx(1, rel=0.06)
