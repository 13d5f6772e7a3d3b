"""Drops: counted, expected of rounding, and which of them decides."""

import numpy as np
import pytest

from configs.records import to_json
from eval.choice.drop import Drop, cost_interval, drop_by_rounding, drop_of, expected_drop
from eval.scoring.intervals import wilson_interval

LABELS = np.array([0, 0, 0, 1])
PARENT = np.tile([[0.75, 0.25]], (4, 1))
"""Probabilities that are right: three of four answers of 0.75 are."""


def test_a_changed_answer_costs_what_the_model_was_surer_of_its_own() -> None:
    file = np.array([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.4, 0.6]])
    mean, low, high = expected_drop(file, PARENT, LABELS)
    assert mean == pytest.approx(0.125, abs=1e-6)  # one of four costs 0.75 - 0.25
    assert (low, high) == pytest.approx(cost_interval(np.array([0.5]), 4), abs=1e-6)


def test_a_file_that_changes_no_answer_costs_nothing() -> None:
    # z^2 / (n + z^2), with z = 1.96 and n = 4
    assert expected_drop(PARENT, PARENT, LABELS) == (0, 0, pytest.approx(0.4899, abs=1e-4))


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
    parent = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counted, expected = [], []
    for _ in range(100):
        labels = (rng.uniform(size=(400, 1)) > parent.cumsum(axis=1)).sum(axis=1)
        file = np.exp(logits + rng.normal(size=logits.shape) * 0.5)
        accuracies = [(probs.argmax(axis=1) == labels).mean() for probs in (parent, file)]
        counted.append(accuracies[0] - accuracies[1])
        expected.append(expected_drop(file, parent, labels)[0])
    # Each is the mean of a hundred, with a standard error of 0.0006 or so.
    assert np.mean(expected) == pytest.approx(np.mean(counted), abs=0.004)
    assert np.std(expected) < 0.5 * np.std(counted)


@pytest.mark.parametrize(
    ("drop", "sentence"),
    [
        (Drop(0.004, 0.014, "expected"), "is expected to lose 0.40 points (counted: 1.40 lost)"),
        (Drop(0.004, -0.014, "expected"), "is expected to lose 0.40 points (counted: 1.40 gained)"),
        (
            Drop(0.004, 0.014, "counted_lower_bound"),
            "loses at least 0.40 points (counted: 1.40 lost)",
        ),
        (Drop.of_count(0.014), "loses 1.40 points"),
        (Drop.of_count(-0.014), "gains 1.40 points"),
    ],
)
def test_a_drop_says_what_kind_it_is(drop: Drop, sentence: str) -> None:
    assert str(drop) == sentence


def test_the_drop_of_rounding_is_worked_by_hand() -> None:
    file = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.4, 0.6]])
    rounding = drop_by_rounding(file, PARENT, LABELS)
    assert rounding.n == 4
    assert rounding.agreement == 0.5
    assert rounding.counted == 0  # one answer became wrong, one right
    # The model was surer of two of its answers, by half a probability each.
    assert rounding.expected == pytest.approx(0.25, abs=1e-6)
    assert rounding.drop == Drop(rounding.expected, 0, "expected")


def test_a_count_that_contradicts_the_expected_drop_decides() -> None:
    labels = np.zeros(400, int)
    parent = np.tile([[0.51, 0.49]], (400, 1))
    file = np.where(np.arange(400)[:, None] < 40, [[0.4, 0.6]], parent)
    rounding = drop_by_rounding(file, parent, labels)
    # The parent is always right, and no temperature makes it surer than 0.58. A tenth is lost.
    assert rounding.expected < 0.02
    assert rounding.counted == pytest.approx(0.1)
    assert rounding.drop.decided_by == "counted_lower_bound"
    assert rounding.drop.decisive == rounding.counted_low > 0.06


def test_where_no_answer_changed_the_upper_ends_are_those_of_a_rare_event() -> None:
    rounding = drop_by_rounding(PARENT, PARENT, LABELS)
    # z^2 / (n + z^2), with z = 1.96 and n = 4
    assert rounding.counted_high == pytest.approx(0.4899, abs=1e-4)
    assert rounding.expected_high == pytest.approx(0.4899, abs=1e-4)
    assert rounding.decisive == rounding.counted == rounding.expected_low == 0


def test_the_kind_of_drop_is_stored_where_two_kinds_have_one_value() -> None:
    # No answer changed: the expected and the counted drop are both 0.
    rounding = drop_by_rounding(PARENT, PARENT, LABELS)
    assert rounding.drop.decided_by == "expected"
    assert rounding.by_count().drop == Drop(0.0, 0.0, "counted")


def test_the_drop_of_rounding_keeps_its_keys_in_json() -> None:
    assert set(to_json(drop_by_rounding(PARENT, PARENT, LABELS))) == {
        "n", "agreement", "drop", "drop_low", "drop_high", "expected_drop", "expected_low",
        "expected_high", "loss", "decided_by",
    }  # fmt: skip


def test_a_file_of_another_model_is_counted() -> None:
    file = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4]])
    pruned = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4]])  # the same answers
    assert drop_of(file, pruned, PARENT, LABELS) == Drop.of_count(0.25)


def test_a_file_of_a_model_that_computes_the_same_is_judged_by_what_rounding_costs() -> None:
    file = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4]])
    tied = np.tile([[0.5, 0.5]], (4, 1))
    # Equalized: the same except for float32, which breaks a tie in another way.
    equalized = tied + np.array([-1e-6, 1e-6])
    drop = drop_of(file, equalized, tied, LABELS)
    assert drop.decided_by == "expected"
    assert drop.decisive == pytest.approx(0, abs=1e-6)
    drop = drop_of(file, PARENT, PARENT, LABELS)
    assert drop.decisive == pytest.approx(0.125, abs=1e-6)
    assert drop.counted == 0.25
