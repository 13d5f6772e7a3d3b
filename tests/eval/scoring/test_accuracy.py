"""Scores of files, worked by hand."""

import numpy as np
import pytest

from eval.scoring.accuracy import accuracy, compare, macro_f1, top_k


def answers(classes: list[int], num_classes: int = 3) -> np.ndarray:
    """Probabilities that are 0.8 at the given classes."""
    probs = np.full((len(classes), num_classes), 0.2 / (num_classes - 1), "float32")
    probs[np.arange(len(classes)), classes] = 0.8
    return probs


def test_scores_of_four_photos_by_hand() -> None:
    labels = np.array([0, 1, 2, 2])
    probs = answers([0, 1, 2, 0])
    scores = accuracy(probs, labels, split="test", teacher_probs=answers([0, 1, 1, 0]))
    assert scores.split == "test"
    assert (scores.n, scores.top1, scores.top5) == (4, 0.75, 1.0)
    # Wilson, 3 of 4: (0.75 + 1.9207/4 +- 1.96 sqrt(0.1875/4 + 3.8415/64)) / (1 + 3.8415/4)
    assert (scores.top1_low, scores.top1_high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert scores.nll == pytest.approx(-(3 * np.log(0.8) + np.log(0.1)) / 4, rel=1e-5)
    assert scores.ece == pytest.approx(0.05, abs=1e-6)
    assert scores.agreement_with_teacher == 0.75


def test_without_a_teacher_there_is_no_agreement() -> None:
    scores = accuracy(answers([0]), np.array([0]), split="validation")
    assert scores.agreement_with_teacher is None


def test_a_file_against_its_parent_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 0])
    parent = answers([0, 0, 0, 0, 1])  # 4 right
    file = answers([0, 0, 1, 1, 2])  # 2 right; three answers changed, two for the worse
    student = answers([0, 0, 0, 1, 1])  # 3 right
    comparison = compare(file, parent, labels, student_probs=student)
    assert comparison.num_flips == 3
    assert comparison.agreement == pytest.approx(0.4)
    assert comparison.drop == pytest.approx(0.4)
    assert comparison.drop_vs_student == pytest.approx(0.2)
    assert comparison.mcnemar_p == pytest.approx(0.5)  # 2 * (1/2)**2
    assert compare(file, parent, labels).drop_vs_student is None


def test_top_k_counts_labels_among_the_best() -> None:
    probs = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    labels = np.array([0, 1, 2, 2])
    assert [top_k(probs, labels, k) for k in (1, 2, 3, 5)] == [0.5, 0.75, 1.0, 1.0]


def test_macro_f1_weighs_classes_alike() -> None:
    # Class 0: 2 * 3 / (4 + 3) = 6/7; class 1: 0 right, so 0; class 2: 1
    predicted, labels = np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 1, 2])
    assert macro_f1(predicted, labels) == pytest.approx((6 / 7 + 0 + 1) / 3)
