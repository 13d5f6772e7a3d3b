"""The drop that rounding is expected to cost, and its interval."""

import numpy as np
import pytest

from eval.choice.drop import cost_interval, expected_drop
from eval.scoring.intervals import wilson_interval


def test_a_changed_answer_costs_what_the_model_was_surer_of_its_own() -> None:
    # Probabilities that are right: three of four answers of 0.75 are.
    labels, source = np.array([0, 0, 0, 1]), np.tile([[0.75, 0.25]], (4, 1))
    file = np.array([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.4, 0.6]])
    mean, low, high = expected_drop(file, source, labels)
    assert mean == pytest.approx(0.125, abs=1e-6)  # one of four costs 0.75 - 0.25
    assert (low, high) == pytest.approx(cost_interval(np.array([0.5]), 4), abs=1e-6)


def test_a_file_that_changes_no_answer_costs_nothing() -> None:
    labels, source = np.array([0, 0, 0, 1]), np.tile([[0.75, 0.25]], (4, 1))
    # z^2 / (n + z^2), with z = 1.96 and n = 4
    assert expected_drop(source, source, labels) == (0, 0, pytest.approx(0.4899, abs=1e-4))


def test_the_interval_of_costs_of_one_is_wilsons() -> None:
    for changed in (0, 1, 7, 100):
        assert cost_interval(np.ones(changed), 200) == pytest.approx(wilson_interval(changed, 200))


def test_the_interval_of_one_cost_is_worked_by_hand() -> None:
    # Of 200 answers one costs 0.18. With z^2 / 2 = 1.9207 answers of cost 1, the size is
    # (0.0324 + 1.9207) / (0.18 + 1.9207) = 0.92976, so the middle is
    # (0.18 + 0.92976 * 1.9207) / 203.8415 = 0.0096437, and half the width
    # 1.96 / 203.8415 * sqrt(0.92976 * 0.18 - 0.18^2 / 200 + 0.92976^2 * 0.96035) = 0.0096024.
    low, high = cost_interval(np.array([0.18]), 200)
    assert (low, high) == pytest.approx((0.0000413, 0.0192461), abs=1e-6)


def test_more_changed_answers_and_higher_costs_never_lower_the_upper_end() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        costs = rng.beta(*rng.choice([0.3, 1, 5], 2), rng.integers(0, 40))
        _, high = cost_interval(costs, 200)
        for further in (1e-6, 0.01, 0.1, 1.0):
            assert cost_interval(np.append(costs, further), 200)[1] > high
        if len(costs):
            costs[0] += (1 - costs[0]) / 2
            assert cost_interval(costs, 200)[1] > high


@pytest.mark.parametrize("num_expected", [0.5, 2, 5, 20])
@pytest.mark.parametrize("shape", [(1, 5), (1, 1), (0.2, 0.8)])
def test_the_interval_holds_the_true_mean_cost(
    num_expected: float, shape: tuple[float, float]
) -> None:
    # A normal interval holds it in 66 to 88 % of these cases with 2 changes expected.
    rng, n = np.random.default_rng(0), 200
    true_mean = num_expected / n * shape[0] / sum(shape)
    num_held = 0
    for _ in range(1000):
        costs = rng.beta(*shape, rng.binomial(n, num_expected / n))
        low, high = cost_interval(costs, n)
        num_held += low <= true_mean <= high
    # The standard deviation of a share of 1,000 is 0.007.
    assert num_held / 1000 >= 0.93


def test_the_expected_drop_varies_less_than_the_counted_one_and_means_the_same() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(400, 3))
    source = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counted, expected = [], []
    for _ in range(100):
        labels = (rng.uniform(size=(400, 1)) > source.cumsum(axis=1)).sum(axis=1)
        file = np.exp(logits + rng.normal(size=logits.shape) * 0.5)
        accuracies = [(probs.argmax(axis=1) == labels).mean() for probs in (source, file)]
        counted.append(accuracies[0] - accuracies[1])
        expected.append(expected_drop(file, source, labels)[0])
    # Each is the mean of a hundred, with a standard error of 0.0006 or so.
    assert np.mean(expected) == pytest.approx(np.mean(counted), abs=0.004)
    assert np.std(expected) < 0.5 * np.std(counted)
