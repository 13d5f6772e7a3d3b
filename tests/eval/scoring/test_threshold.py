"""The threshold for "none of these", by hand."""

import numpy as np
import pytest

from eval.scoring.threshold import Threshold, accepted_photos, fit_threshold


def answers(confidences: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two classes with these confidences, and labels."""
    probs = np.array([[c, 1 - c] for c in confidences])
    return probs, np.array([0 if is_right else 1 for is_right in right])


def test_the_lowest_score_above_which_enough_is_right() -> None:
    # Right, from the top: 4 of 4, 4 of 5, 5 of 6, 6 of 7, 6 of 8, 6 of 9.
    confidences = [0.99, 0.98, 0.97, 0.96, 0.9, 0.85, 0.8, 0.7, 0.6]
    right = [True, True, True, True, False, True, True, False, False]
    probs, labels = answers(confidences, right)
    order = np.random.default_rng(0).permutation(9)
    assert fit_threshold(probs[order], labels[order], 0.8) == Threshold(0.8, 0.8, 7 / 9)
    assert fit_threshold(probs[order], labels[order], 0.75) == Threshold(0.7, 0.75, 8 / 9)


def test_photos_of_one_score_are_accepted_together() -> None:
    probs, labels = answers([0.9, 0.9, 0.9, 0.7, 0.7, 0.7], [True, True, True, True, False, False])
    assert fit_threshold(probs, labels, 2 / 3) == Threshold(0.7, 2 / 3, 1.0)
    assert fit_threshold(probs, labels, 0.7) is None  # 1 of 3 wrong would be too many
    assert fit_threshold(*answers([0.9, 0.9, 0.6, 0.6], [True, True, True, False]), 0.5) is not None


def test_a_few_right_answers_are_no_evidence() -> None:
    probs, labels = answers([0.9] * 19, [True] * 19)
    assert fit_threshold(probs, labels, 0.95) is None
    probs, labels = answers([0.9] * 20, [True] * 20)
    assert fit_threshold(probs, labels, 0.95) == Threshold(0.9, 0.95, 1.0)


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
