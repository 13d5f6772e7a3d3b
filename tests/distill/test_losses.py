import numpy as np
import pytest

from distill.losses import cross_entropy, distillation_objective, kd, label_objective


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_kd_matches_a_value_worked_by_hand(temperature: float) -> None:
    # Softened teacher (3/4, 1/4) against student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2)
    teacher_logits = np.array([[temperature * np.log(3), 0.0]], "float32")
    student_logits = np.zeros((1, 2), "float32")
    loss = kd(student_logits=student_logits, teacher_logits=teacher_logits, temperature=temperature)
    # float32 holds seven digits
    assert float(loss[0]) == pytest.approx(temperature**2 * 0.130812, rel=1e-4)


def test_kd_agrees_with_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    stats = pytest.importorskip("scipy.stats")
    teacher, student = np.random.default_rng(0).normal(0, 3, (2, 6, 5)).astype("float32")
    expected = 9.0 * stats.entropy(
        special.softmax(teacher / 3, 1), special.softmax(student / 3, 1), axis=1
    )
    got = kd(student_logits=student, teacher_logits=teacher, temperature=3.0)
    assert np.allclose(got, expected, rtol=1e-4)  # float32 against float64


def test_a_student_equal_to_its_teacher_has_no_soft_loss() -> None:
    logits = np.array([[1.0, 2.0, 3.0]], "float32")
    assert float(kd(student_logits=logits, teacher_logits=logits)[0]) == pytest.approx(0, abs=1e-6)


def test_cross_entropy_matches_a_value_worked_by_hand() -> None:
    # Probabilities (3/4, 1/4), label 1, smoothed by 0.2 to (0.1, 0.9)
    logits = np.array([[np.log(3), 0.0]], "float32")
    labels = np.array([[0.0, 1.0]], "float32")
    assert float(cross_entropy(labels=labels, logits=logits)[0]) == pytest.approx(np.log(4))
    smoothed = cross_entropy(labels=labels, logits=logits, label_smoothing=0.2)
    assert float(smoothed[0]) == pytest.approx(0.1 * np.log(4 / 3) + 0.9 * np.log(4))


def test_soft_weight_weighs_the_teacher_against_the_labels() -> None:
    # Teacher (3/4, 1/4) at temperature 1, student (1/2, 1/2), label 0.
    targets = np.array([[1.0, 0.0, np.log(3), 0.0]], "float32")
    logits = np.zeros((1, 2), "float32")
    objective = distillation_objective(
        "kd", {"temperature": 1.0}, soft_weight=0.75, label_smoothing=0.0
    )
    expected = 0.75 * 0.130812 + 0.25 * np.log(2)
    assert float(objective(targets, logits)[0]) == pytest.approx(expected, rel=1e-4)


def test_the_control_reads_labels_alone() -> None:
    logits = np.zeros((1, 2), "float32")
    bare = label_objective(0.0)(np.array([[1.0, 0.0]], "float32"), logits)
    assert float(bare[0]) == pytest.approx(np.log(2))
