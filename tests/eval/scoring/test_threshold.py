"""The threshold for "none of these", by hand."""

import numpy as np
import pytest

from eval.scoring.threshold import Threshold, accepted_photos, fit_threshold


def answers(confidences: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two classes with these confidences, and labels."""
    probs = np.array([[c, 1 - c] for c in confidences])
    return probs, np.array([0 if is_right else 1 for is_right in right])


def test_the_lowest_score_above_which_enough_is_right() -> None:
    # 0.75 with a standard error to spare: of 27 photos 23 must be right (0.833), of 28 24 (0.832).
    confidences = list(np.linspace(0.99, 0.5, 40))
    right = [True] * 22 + [False] * 4 + [True] * 2 + [False] * 12
    probs, labels = answers(confidences, right)
    order = np.random.default_rng(0).permutation(40)
    threshold = fit_threshold(probs[order], labels[order], 0.75)
    assert threshold == Threshold(confidences[27], 0.75, 28 / 40)
    # One photo more would be 24 of 29: 0.828, and 0.75 + 0.080 is asked for.


def test_photos_of_one_score_are_accepted_together() -> None:
    probs, labels = answers([0.9] * 12 + [0.7] * 4, [True] * 12 + [True, False, False, False])
    # 13 of 13 would do; with all photos of its score it is 13 of 16: 0.8125 is below 0.75 + 0.108.
    assert fit_threshold(probs, labels, 0.75) == Threshold(0.9, 0.75, 12 / 16)


def test_a_few_right_answers_are_no_evidence() -> None:
    assert fit_threshold(*answers([0.9] * 18, [True] * 18), 0.95) is None
    threshold = fit_threshold(*answers([0.9] * 19, [True] * 19), 0.95)  # 1 - 0.05 = 0.95
    assert threshold == Threshold(0.9, 0.95, 1.0)


def test_no_score_reaches_what_is_asked_for() -> None:
    probs, labels = answers(list(np.linspace(0.5, 1, 100)), [False] * 100)
    assert fit_threshold(probs, labels, 0.95) is None


def test_what_a_threshold_does_on_other_photos() -> None:
    probs, labels = answers([0.9, 0.8, 0.6, 0.55], [True, False, True, True])
    accepted = accepted_photos(Threshold(0.6, 0.95, 0.7), probs, labels)
    assert accepted.coverage == 0.75
    assert accepted.accuracy == pytest.approx(2 / 3)
    assert accepted.accuracy_low is not None
    assert accepted.accuracy_low < 2 / 3
    assert accepted_photos(Threshold(0.95, 0.95, 0.7), probs, labels).accuracy is None
