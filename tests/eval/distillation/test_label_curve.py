"""What a teacher was worth in labels, by hand."""

import math

import numpy as np
import pytest

from eval.distillation.label_curve import label_curve


def right(share: float, n: int = 10_000) -> np.ndarray:
    """One seed that is right on the first photos."""
    return (np.arange(n) < share * n).astype("float64")[None]


def test_the_student_meets_the_curve_between_two_controls() -> None:
    controls = [(400, right(0.8)), (100, right(0.6)), (200, right(0.7))]
    curve = label_curve(controls, student_labels=100, students=right(0.75))
    assert curve.num_labels == [100, 200, 400]
    assert curve.control_top1 == [0.6, 0.7, 0.8]
    # Half-way between 200 and 400 in the logarithm.
    assert curve.worth == pytest.approx(200 * math.sqrt(2))
    assert curve.worth_low is not None
    assert curve.worth_high is not None
    assert 200 < curve.worth_low < curve.worth < curve.worth_high < 400
    assert "Its control needs 283 to be as good" in curve.sentence
    assert "worth 2.8 times the labels" in curve.sentence


def test_beyond_the_last_control_nothing_is_guessed() -> None:
    controls = [(100, right(0.6)), (200, right(0.7))]
    curve = label_curve(controls, student_labels=100, students=right(0.9))
    assert curve.worth is None
    assert "not even the one with 200 labels (95 %: more than 200)" in curve.sentence
    assert "more than 2.0 times the labels" in curve.sentence


def test_a_teacher_that_harms_costs_labels() -> None:
    controls = [(100, right(0.6)), (200, right(0.7))]
    worse = label_curve(controls, student_labels=200, students=right(0.65))
    assert "So the teacher cost labels" in worse.sentence
    worst = label_curve(controls, student_labels=200, students=right(0.3))
    assert worst.worth is None
    assert "better with fewer labels" in worst.sentence


def test_a_gain_by_chance_replaces_no_labels() -> None:
    rng = np.random.default_rng(0)
    answers = [(rng.random((1, 200)) < share).astype("float64") for share in (0.6, 0.7, 0.61)]
    curve = label_curve([(100, answers[0]), (200, answers[1])], student_labels=100,
                        students=answers[2])  # fmt: skip
    assert "no labels beyond chance" in curve.sentence
