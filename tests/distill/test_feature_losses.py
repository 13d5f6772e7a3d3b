"""Feature losses against values worked by hand, and against their papers' formulas in NumPy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from distill.feature_losses import (
    FEATURE_LOSSES,
    attention,
    facts_of,
    hint,
    relational,
    simkd,
    with_feature_loss,
)
from distill.features import Head, resampled
from distill.losses import distillation_objective

STUDENT = np.random.default_rng(0).normal(0, 2, (6, 5)).astype("float32")
TEACHER = np.random.default_rng(1).normal(3, 1, (6, 9)).astype("float32")


def value(loss: object) -> np.ndarray:
    return keras.ops.convert_to_numpy(loss)


@pytest.mark.parametrize("loss", [hint, simkd])
def test_hint_and_simkd_are_mean_squared_errors(loss) -> None:
    student = np.array([[1.0, 2.0], [0.0, 0.0]], "float32")
    teacher = np.array([[1.0, 4.0], [3.0, 1.0]], "float32")
    # (0 + 4) / 2 and (9 + 1) / 2, times 0.5
    found = loss(student_features=student, teacher_features=teacher, weight=0.5)
    assert value(found) == pytest.approx([1.0, 2.5])


def test_attention_matches_a_value_worked_by_hand() -> None:
    # (3, 4) over 5 against (1, 0): (0.4^2 + 0.8^2) over four places, times 10
    student = np.array([[3.0, 0, 0, 4.0]], "float32")
    teacher = np.array([[7.0, 0, 0, 0]], "float32")
    found = attention(student_features=student, teacher_features=teacher, weight=10.0)
    assert value(found) == pytest.approx([10 * (0.16 + 0.64) / 4], rel=1e-5)


def test_attention_brings_the_finer_map_to_the_coarser_grid() -> None:
    rng = np.random.default_rng(0)
    student, teacher = (rng.uniform(0, 1, (3, side * side)).astype("float32") for side in (2, 4))
    pooled = teacher.reshape(3, 2, 2, 2, 2).mean(axis=(2, 4)).reshape(3, 4)
    rows = [maps / np.linalg.norm(maps, axis=1, keepdims=True) for maps in (student, pooled)]
    expected = 1000 * np.mean((rows[0] - rows[1]) ** 2, axis=1)
    found = attention(student_features=student, teacher_features=teacher)
    assert np.allclose(value(found), expected, rtol=1e-4)


def test_a_new_place_is_the_mean_of_the_area_that_it_covers() -> None:
    # Of three places in a row, the first of two covers one and a half: (1 + 2/2) / 1.5
    row = np.array([1.0, 2.0, 4.0], "float32")
    maps = np.tile(row, (3, 1)).reshape(1, 9)
    found = value(resampled(maps, 3, 2)).reshape(2, 2)
    assert found[0] == pytest.approx([2 / 1.5, 5 / 1.5])
    # On a finer grid, what is repeated evenly stays what it is.
    finer = value(resampled(maps, 3, 6)).reshape(6, 6)
    assert finer[0] == pytest.approx([1, 1, 2, 2, 4, 4])


def test_distances_match_a_value_worked_by_hand() -> None:
    # Distances 1, 1, 2 over their mean 4/3 against three equal ones: differences 1/4, 1/4, 1/2.
    student = np.array([[0.0], [1.0], [2.0]], "float32")
    teacher = np.eye(3, dtype="float32")
    found = relational(student_features=student, teacher_features=teacher, angle_weight=0.0)
    near, far = 0.5 * 0.25**2, 0.5 * 0.5**2
    assert value(found) / 25 == pytest.approx([(near + far) / 2, near, (near + far) / 2], rel=1e-4)


def test_angles_match_a_value_worked_by_hand() -> None:
    # On a line, the cosines at the ends are 1, and -1 in the middle. In an equilateral triangle
    # all are 1/2. Each vertex sees its pair of others in both orders.
    student = np.array([[0.0], [1.0], [2.0]], "float32")
    teacher = np.eye(3, dtype="float32")
    found = relational(student_features=student, teacher_features=teacher, distance_weight=0.0)
    end, middle = 0.5 * 0.5**2, 1.5 - 0.5  # Huber: the square up to 1, then linear
    assert value(found) / 50 == pytest.approx([end, middle, end], rel=1e-4)


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) <= 1 else abs(difference) - 0.5


def relational_in_numpy(student: np.ndarray, teacher: np.ndarray) -> float:
    """The mean over all pairs and triplets, written with loops (Park et al. 2019, section 3.2)."""
    number = len(student)
    pairs = list(itertools.permutations(range(number), 2))
    distance, cosine = [], []
    for features in (student.astype("float64"), teacher.astype("float64")):
        lengths = {(i, j): np.linalg.norm(features[i] - features[j]) for i, j in pairs}
        mean = np.mean(list(lengths.values()))
        distance.append({pair: length / mean for pair, length in lengths.items()})
        cosine.append(
            {
                (i, j, k): (features[i] - features[j]) @ (features[k] - features[j])
                / (lengths[i, j] * lengths[k, j])
                for i, j, k in itertools.permutations(range(number), 3)
            }
        )  # fmt: skip
    of_distances = np.mean([huber(distance[0][pair] - distance[1][pair]) for pair in pairs])
    of_angles = np.mean([huber(cosine[0][key] - cosine[1][key]) for key in cosine[0]])
    return float(25 * of_distances + 50 * of_angles)


def test_relational_agrees_with_loops_over_pairs_and_triplets() -> None:
    found = value(relational(student_features=STUDENT, teacher_features=TEACHER))
    # float32, and differences of squares
    assert found.mean() == pytest.approx(relational_in_numpy(STUDENT, TEACHER), rel=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_batch_of_equal_examples_has_finite_relations_and_gradients(batch: int) -> None:
    features = tf.Variable(np.ones((batch, 4), "float32"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(
            relational(student_features=features, teacher_features=TEACHER[:batch])
        )
    assert np.isfinite(loss.numpy())
    assert np.isfinite(tape.gradient(loss, features).numpy()).all()


def test_two_equal_photos_in_a_batch_do_not_spoil_the_gradients() -> None:
    features = tf.Variable(np.concatenate([STUDENT, STUDENT[:1]]) + 100)
    teacher = np.concatenate([TEACHER, TEACHER[:1]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(relational(student_features=features, teacher_features=teacher))
    gradient = tape.gradient(loss, features).numpy()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 100


def test_a_student_with_its_teachers_features_has_no_loss() -> None:
    for name in FEATURE_LOSSES.names():
        features = np.abs(TEACHER)
        found = FEATURE_LOSSES[name](student_features=features, teacher_features=features)
        assert np.allclose(value(found), 0, atol=1e-5), name


@pytest.mark.parametrize("name", FEATURE_LOSSES.names())
def test_no_gradient_flows_into_the_teacher(name: str) -> None:
    student = tf.Variable(TEACHER + STUDENT[:, :1])
    teacher = tf.Variable(TEACHER)
    with tf.GradientTape() as tape:
        loss = FEATURE_LOSSES[name](student_features=student, teacher_features=teacher)
    to_student, to_teacher = tape.gradient(loss, [student, teacher])
    assert np.abs(to_student.numpy()).max() > 0
    assert to_teacher is None or not np.abs(to_teacher.numpy()).max()


def test_the_feature_loss_is_added_with_the_weights_of_the_examples() -> None:
    of_logits = distillation_objective(
        "kd", {}, soft_weight=0.5, label_smoothing=0.0, class_weights=(0.5, 2.0)
    )
    objective = with_feature_loss(
        of_logits, "hint", {"weight": 3.0}, num_classes=2, class_weights=(0.5, 2.0)
    )
    # Labels 0, 1 and none; both logits; then three features, whose errors are 1, 2 and 1.
    labels = np.array([[1, 0], [0, 1], [0, 0]], "float32")
    logits = np.zeros((3, 2), "float32")
    errors = np.array([[1], [2], [1]], "float32") * np.ones((1, 3), "float32")
    targets = np.hstack([labels, logits, errors])
    outputs = np.hstack([logits, np.zeros((3, 3), "float32")])
    added = value(objective(targets, outputs)) - value(of_logits(targets[:, :4], logits))
    assert added == pytest.approx([3 * 1 * 0.5, 3 * 4 * 2.0, 3 * 1 * 1.0], rel=1e-5)


def test_what_a_loss_reads_is_one_kind_of_features() -> None:
    assert {name: facts_of(name).reads for name in FEATURE_LOSSES.names()} == {
        "attention": "attention", "hint": "pooled", "relational": "pooled", "simkd": "pooled",
    }  # fmt: skip


def test_a_head_on_standardized_features_answers_the_same() -> None:
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(9, 3)), rng.normal(size=3))
    mean, deviation = TEACHER.mean(axis=0), TEACHER.std(axis=0)
    moved = head.on_standardized(mean, deviation)
    answers = (TEACHER - mean) / deviation @ moved.kernel + moved.bias
    assert np.allclose(answers, TEACHER @ head.kernel + head.bias)
