import numpy as np
import pytest
import tensorflow as tf

from distill.losses import (
    LOSSES,
    balanced_class_weights,
    cross_entropy,
    dist,
    distillation_objective,
    dkd,
    jensen_shannon,
    kd,
    label_objective,
    logit_standardized,
)


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
    loss = kd(student_logits=student, teacher_logits=teacher, temperature=3.0)
    assert np.allclose(loss, expected, rtol=1e-4)  # float32 against float64


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


def test_the_control_learns_from_labels_alone() -> None:
    logits = np.zeros((1, 2), "float32")
    loss = label_objective(0.0)(np.array([[1.0, 0.0]], "float32"), logits)
    assert float(loss[0]) == pytest.approx(np.log(2))


# Each soft loss is compared with the formula of its paper, written again in NumPy.
TEACHER, STUDENT = np.random.default_rng(0).normal(0, 3, (2, 6, 5)).astype("float32")
LABELS = np.eye(5, dtype="float32")[[0, 4, 2, 2, 1, 3]]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype("float64"))
    return powers / powers.sum(1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(1)


def test_logit_standardized_agrees_with_numpy() -> None:
    def scores(logits: np.ndarray) -> np.ndarray:
        logits = logits.astype("float64")
        return (logits - logits.mean(1, keepdims=True)) / logits.std(1, keepdims=True)

    expected = 9 * kl(softmax(scores(TEACHER) / 3), softmax(scores(STUDENT) / 3))
    loss = logit_standardized(student_logits=STUDENT, teacher_logits=TEACHER, temperature=3.0)
    assert np.allclose(loss, expected, rtol=1e-4)  # float32 against float64


def test_logit_standardized_ignores_scale_and_offset() -> None:
    loss = logit_standardized(student_logits=3 * TEACHER + 7, teacher_logits=TEACHER)
    assert np.allclose(loss, 0, atol=1e-5)


def test_dkd_agrees_with_numpy() -> None:
    teacher, student = softmax(TEACHER / 2), softmax(STUDENT / 2)
    right = LABELS.astype(bool)

    def binary(probs: np.ndarray) -> np.ndarray:
        return np.stack([probs[right], 1 - probs[right]], 1)

    def others(probs: np.ndarray) -> np.ndarray:
        rest = probs[~right].reshape(6, 4)
        return rest / rest.sum(1, keepdims=True)

    expected = 4 * (
        0.5 * kl(binary(teacher), binary(student)) + 3 * kl(others(teacher), others(student))
    )
    loss = dkd(
        student_logits=STUDENT,
        teacher_logits=TEACHER,
        labels=LABELS,
        temperature=2.0,
        target_weight=0.5,
        other_weight=3.0,
    )
    assert np.allclose(loss, expected, rtol=1e-4)  # float32 against float64


def test_dkd_is_kd_if_the_other_classes_weigh_what_the_teacher_gives_them() -> None:
    # Equation 6 of the paper: KD = TCKD + (1 - p_target) NCKD. One example at a time, because the
    # weight differs between examples.
    for i in range(len(LABELS)):
        one = {"student_logits": STUDENT[[i]], "teacher_logits": TEACHER[[i]]}
        weight = 1 - softmax(TEACHER[[i]] / 4)[LABELS[[i]].astype(bool)].item()
        decoupled = dkd(**one, labels=LABELS[[i]], temperature=4.0, other_weight=weight)
        assert float(decoupled[0]) == pytest.approx(float(kd(**one)[0]), rel=1e-4)


def test_dkd_of_a_very_confident_teacher_is_finite() -> None:
    sure = np.array([[200.0, 0.0, -200.0]], "float32")
    loss = dkd(student_logits=-sure, teacher_logits=sure, labels=np.eye(3, dtype="float32")[[0]])
    assert np.isfinite(np.asarray(loss)).all()


def test_dist_agrees_with_numpy() -> None:
    teacher, student = softmax(TEACHER / 2), softmax(STUDENT / 2)
    rows = [1 - np.corrcoef(t, s)[0, 1] for t, s in zip(teacher, student, strict=True)]
    columns = [1 - np.corrcoef(t, s)[0, 1] for t, s in zip(teacher.T, student.T, strict=True)]
    loss = dist(
        student_logits=STUDENT,
        teacher_logits=TEACHER,
        temperature=2.0,
        between_classes=2.0,
        within_class=0.5,
    )
    expected = 4 * (2 * np.array(rows) + 0.5 * np.mean(columns))
    assert np.allclose(loss, expected, rtol=1e-4)  # float32 against float64


def test_jensen_shannon_agrees_with_scipy() -> None:
    distance = pytest.importorskip("scipy.spatial.distance")
    # SciPy returns the square root of the divergence.
    expected = 9 * distance.jensenshannon(softmax(TEACHER / 3), softmax(STUDENT / 3), axis=1) ** 2
    loss = jensen_shannon(student_logits=STUDENT, teacher_logits=TEACHER, temperature=3.0)
    assert np.allclose(loss, expected, rtol=1e-4)  # float32 against float64


def test_jensen_shannon_matches_a_value_worked_by_hand() -> None:
    # Two confident, opposite answers: each is ln 2 from their average.
    sure = np.array([[50.0, -50.0]], "float32")
    loss = jensen_shannon(student_logits=-sure, teacher_logits=sure)
    assert float(loss[0]) == pytest.approx(np.log(2))


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_has_a_finite_gradient_for_an_untrained_student(name: str) -> None:
    # Zero logits have no variance and no correlation.
    targets = np.concatenate([LABELS, TEACHER], axis=1)
    objective = distillation_objective(name, {}, soft_weight=1.0, label_smoothing=0.0)
    logits = tf.Variable(np.zeros_like(STUDENT))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(objective(targets, logits))
    gradient = tape.gradient(loss, logits)
    assert np.isfinite(gradient.numpy()).all()


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_falls_along_its_gradient(name: str) -> None:
    targets = np.concatenate([LABELS, TEACHER], axis=1)
    objective = distillation_objective(name, {}, soft_weight=1.0, label_smoothing=0.0)
    logits = tf.Variable(STUDENT)
    with tf.GradientTape() as tape:
        before = tf.reduce_mean(objective(targets, logits))
    logits.assign_sub(1e-2 * tape.gradient(before, logits))
    assert tf.reduce_mean(objective(targets, logits)) < before


@pytest.mark.parametrize("name", LOSSES.names())
def test_class_weights_scale_the_whole_loss_of_an_example(name: str) -> None:
    targets = np.concatenate([LABELS, TEACHER], axis=1)
    shares = {"soft_weight": 0.5, "label_smoothing": 0.1}
    plain = distillation_objective(name, {}, **shares)(targets, STUDENT)
    weights = (1.0, 2.0, 3.0, 4.0, 5.0)
    weighted = distillation_objective(name, {}, class_weights=weights, **shares)(targets, STUDENT)
    assert np.allclose(weighted, plain * np.array([1.0, 5.0, 3.0, 3.0, 2.0, 4.0]), rtol=1e-6)


def test_balanced_weights_give_every_class_the_same_total() -> None:
    # 6 of class 0 and 2 of class 1, of 8 in 2 classes: 8 / (2 * 6) and 8 / (2 * 2)
    weights = balanced_class_weights(np.array([0] * 6 + [1] * 2), num_classes=2)
    assert weights == pytest.approx((2 / 3, 2.0))


@pytest.mark.parametrize("class_weights", [None, (1.0, 2.0, 3.0, 4.0, 5.0)])
def test_a_photo_without_a_label_has_the_soft_loss_alone(class_weights) -> None:
    targets = np.concatenate([np.zeros_like(LABELS), TEACHER], axis=1)
    objective = distillation_objective(
        "kd", {}, soft_weight=0.75, label_smoothing=0.1, class_weights=class_weights
    )
    soft = kd(student_logits=STUDENT, teacher_logits=TEACHER)
    assert np.allclose(objective(targets, STUDENT), 0.75 * np.array(soft), rtol=1e-6)
