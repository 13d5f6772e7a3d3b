"""Students that learn from features: what is trained, what is kept, and how a kill ends."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from distill.backbones import HEAD
from distill.feature_losses import FEATURE_LOSSES, facts_of, with_feature_loss
from distill.features import Head
from distill.losses import distillation_objective
from distill.training.epochs import Schedule
from distill.training.feature_student import (
    RIDGE,
    FeatureGoal,
    feature_student,
    fit_projection,
    fold_projection,
)
from distill.training.fit import fit

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (24, 8, 8, 3)).astype("float32")
LABELS = (IMAGES.mean(axis=(1, 2, 3)) > 0).astype("int32")
LOGITS = np.eye(2, dtype="float32")[LABELS] * 3
NUM_FEATURES = 9  # of the teacher; as an attention map, 3 x 3
FEATURES = RNG.uniform(0, 1, (24, NUM_FEATURES)).astype("float32")
TARGETS = np.hstack([np.eye(2, dtype="float32")[LABELS], LOGITS, FEATURES])


class Killed(Exception):
    pass


def tiny_student() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(2, name=HEAD)(x))


def goal(name: str) -> FeatureGoal:
    kernel = np.random.default_rng(1).normal(0, 1, (NUM_FEATURES, 2)).astype("float32")
    head = Head(kernel, np.array([0.5, -0.5], "float32"))
    return FeatureGoal(name, NUM_FEATURES, head if name == "simkd" else None)


def batches(epoch: int, step: int, *, kill_at: tuple[int, int] | None = None) -> tf.data.Dataset:
    def all_steps():
        for number in range(epoch, 100):
            order = np.random.default_rng(number).permutation(24)
            for place in range(step if number == epoch else 0, 4):
                if (number, place) == kill_at:
                    raise Killed
                rows = order[6 * place : 6 * place + 6]
                yield IMAGES[rows], TARGETS[rows]

    shapes = (tf.TensorSpec((6, 8, 8, 3)), tf.TensorSpec((6, 4 + NUM_FEATURES)))
    return tf.data.Dataset.from_generator(all_steps, output_signature=shapes)


def train(name: str, checkpoint: Path, kill_at: tuple[int, int] | None = None) -> keras.Model:
    """Four epochs of the tiny student; returns the plain classifier."""
    model, own_goal = tiny_student(), goal(name)
    student = feature_student(model, own_goal)
    objective = with_feature_loss(
        distillation_objective("kd", {}, soft_weight=0.5, label_smoothing=0.0),
        name,
        {},
        num_classes=2,
    )

    def prepare() -> None:
        if student.projection is not None:
            fit_projection(student, iter([(IMAGES, FEATURES)]), num_batches=1)

    fit(
        student.trained,
        classifier=student.classifier,
        train=lambda epoch, step: batches(epoch, step, kill_at=kill_at),
        validation=lambda: iter([(IMAGES, LABELS)]),
        objective=objective,
        schedule=Schedule(4, 4, learning_rate=0.01, weight_decay=1e-4),
        checkpoint=checkpoint,
        name="tiny",
        prepare=prepare,
    )
    if own_goal.head is not None:
        fold_projection(model, student, own_goal.head)
    return model


KILL_AND_RESUME = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
tf.config.experimental.enable_op_determinism()
sys.path.insert(0, sys.argv[1])
import test_feature_student as tests
from distill.training import epochs

epochs.SECONDS_BETWEEN_CHECKPOINTS = 0.0
folder = Path(sys.argv[2])
for name in tests.FEATURE_LOSSES.names():
    undisturbed = tests.train(name, folder / f"{name}.npz").get_weights()
    for kill_at in [(0, 2), (2, 3)]:
        try:
            tests.train(name, folder / f"killed-{name}.npz", kill_at)
        except tf.errors.UnknownError:
            continue
        raise SystemExit("was not killed")
    resumed = tests.train(name, folder / f"killed-{name}.npz").get_weights()
    if not all(map(np.array_equal, resumed, undisturbed)):
        raise SystemExit(f"{name} differs")
"""


def test_a_kill_within_an_epoch_changes_no_bit_of_any_student(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILL_AND_RESUME, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", FEATURE_LOSSES.names())
def test_the_student_stays_a_plain_classifier_and_learns(name: str, tmp_path: Path) -> None:
    before = tiny_student()
    after = train(name, tmp_path / "state.npz")
    assert [type(layer) for layer in after.layers] == [type(layer) for layer in before.layers]
    assert after.output_shape == (None, 2)
    answers = after.predict_on_batch(IMAGES)
    assert np.isfinite(answers).all()
    assert not np.allclose(before.layers[1].get_weights()[0], after.layers[1].get_weights()[0])


@pytest.mark.parametrize("name", FEATURE_LOSSES.names())
def test_the_feature_loss_gets_smaller(name: str, tmp_path: Path) -> None:
    """One batch, the feature loss alone, and gradient descent as Keras does it."""
    model = tiny_student()
    student = feature_student(model, goal(name))
    loss = FEATURE_LOSSES[name]
    student.trained.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=lambda targets, outputs: loss(
            student_features=outputs[:, 2:], teacher_features=targets[:, 4:]
        ),
        jit_compile=False,
    )
    history = student.trained.fit(IMAGES, TARGETS, batch_size=24, epochs=40, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < 0.95 * losses[0], losses


def test_the_first_projection_is_a_ridge_regression() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    student = feature_student(tiny_student(), goal("hint"))
    parts = [(IMAGES[rows], FEATURES[rows]) for rows in (slice(0, 10), slice(10, 24))]
    fit_projection(student, iter(parts), num_batches=2)
    network = keras.Model(student.trained.inputs, student.projection.input)
    features = network.predict_on_batch(IMAGES).astype("float64")
    penalty = RIDGE * (features**2).sum() / features.shape[1]
    expected = linear_model.Ridge(alpha=penalty).fit(features, FEATURES)
    kernel, bias = student.projection.get_weights()
    assert np.allclose(kernel, expected.coef_.T, atol=1e-4)
    assert np.allclose(bias, expected.intercept_, atol=1e-4)


def test_the_folded_head_answers_like_the_projection_and_the_teachers_head() -> None:
    model, own_goal = tiny_student(), goal("simkd")
    student = feature_student(model, own_goal)
    assert own_goal.head is not None
    fold_projection(model, student, own_goal.head)
    expected = student.classifier.predict_on_batch(IMAGES)
    assert np.allclose(model.predict_on_batch(IMAGES), expected, atol=1e-5)  # float32
    # What is trained returns the same logits, and the projected features behind them.
    outputs = student.trained.predict_on_batch(IMAGES)
    assert np.allclose(outputs[:, :2], expected, atol=1e-5)
    assert np.allclose(
        outputs[:, 2:] @ own_goal.head.kernel + own_goal.head.bias, expected, atol=1e-4
    )


def test_the_teachers_head_does_not_learn() -> None:
    student = feature_student(tiny_student(), goal("simkd"))
    names = {variable.path.split("/")[0] for variable in student.trained.trainable_variables}
    assert "projection" in names
    assert not names & {"teacher_head", HEAD}
    assert facts_of("simkd").projection == "kept"
