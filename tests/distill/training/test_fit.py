import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.process.stopping import Stopped, stops_on_signals
from configs.records import to_json
from distill.losses import label_objective
from distill.training import epochs
from distill.training.checkpoint import (
    Checkpoint,
    EpochRow,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from distill.training.epochs import Batches, Schedule, validate
from distill.training.fit import LabelledAccuracy, fit

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (24, 4, 4, 3)).astype("float32")
LABELS = (IMAGES.mean(axis=(1, 2, 3)) > 0).astype("int32")
ONE_HOT = np.eye(2, dtype="float32")[LABELS]
# A third of the photos have no label.
PARTLY_LABELLED = ONE_HOT * (np.arange(24) % 3 > 0)[:, None].astype("float32")


class Killed(Exception):
    pass


def tiny_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(8, activation="relu")(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(x)))


def batches(
    initial_epoch: int,
    initial_step: int,
    *,
    targets: np.ndarray,
    kill_at: tuple[int, int] | None = None,
) -> tf.data.Dataset:
    """Six batches an epoch, in another order in every epoch; may raise before one of them."""

    def all_steps():
        for epoch in range(initial_epoch, 100):
            order = np.random.default_rng(epoch).permutation(24)
            for step in range(initial_step if epoch == initial_epoch else 0, 6):
                if (epoch, step) == kill_at:
                    raise Killed
                rows = order[4 * step : 4 * step + 4]
                yield IMAGES[rows], targets[rows]

    shapes = (tf.TensorSpec((4, 4, 4, 3)), tf.TensorSpec((4, 2)))
    return tf.data.Dataset.from_generator(all_steps, output_signature=shapes)


def train(
    path: Path,
    *,
    kill_at: tuple[int, int] | None = None,
    model: keras.Model | None = None,
    targets: np.ndarray = ONE_HOT,
    train: Callable[[int, int], Any] | None = None,
    validation: Batches = lambda: iter([(IMAGES, LABELS)]),
    **schedule,
) -> tuple[keras.Model, list[EpochRow], list[int]]:
    model = model or tiny_model()
    prepared = []
    history = fit(
        model,
        train=train or (lambda epoch, step: batches(epoch, step, targets=targets, kill_at=kill_at)),
        validation=validation,
        objective=label_objective(0.0),
        schedule=Schedule(4, 6, learning_rate=0.01, weight_decay=1e-4, **schedule),
        checkpoint=path,
        name="tiny",
        prepare=lambda: prepared.append(1),
    )
    return model, history, prepared


@pytest.mark.parametrize("seconds_between_checkpoints", [300.0, 0.0])
@pytest.mark.parametrize("schedule", [{}, {"patience": 4}, {"ema_momentum": 0.8}], ids=str)
def test_a_training_that_was_killed_ends_like_the_undisturbed_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    schedule: dict,
    seconds_between_checkpoints: float,
) -> None:
    monkeypatch.setattr(epochs, "SECONDS_BETWEEN_CHECKPOINTS", seconds_between_checkpoints)
    undisturbed, history, _ = train(tmp_path / "a.npz", **schedule)
    for kill_at in [(0, 2), (2, 3), (2, 4)]:
        with pytest.raises(tf.errors.UnknownError):
            train(tmp_path / "b.npz", kill_at=kill_at, **schedule)
    resumed, resumed_history, prepared = train(tmp_path / "b.npz", **schedule)
    assert not prepared  # the head's training is part of the checkpoint
    assert [row.epoch for row in resumed_history] == [1, 2, 3, 4]
    for name in ("val_loss", "loss", "accuracy"):
        assert [getattr(row, name) for row in resumed_history] == pytest.approx(
            [getattr(row, name) for row in history], rel=1e-4
        )
    for resumed_array, array in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        # float32 sums in another order, over a dozen updates
        assert np.allclose(resumed_array, array, atol=1e-5)


@pytest.mark.usefixtures("usual_handlers")
def test_a_training_that_is_asked_to_end_saves_its_state(tmp_path: Path) -> None:
    undisturbed, history, _ = train(tmp_path / "a.npz", ema_momentum=0.8)
    path = tmp_path / "b.npz"

    def asked_in_the_second_epoch(epoch: int, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, batch in enumerate(batches(epoch, step, targets=ONE_HOT)):
            if number == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    def asked_in_its_validation() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield IMAGES, LABELS

    faults: list[dict[str, Any]] = [
        {"train": asked_in_the_second_epoch},
        {"validation": asked_in_its_validation},
    ]
    states = []
    for fault in faults:
        with stops_on_signals(), pytest.raises(Stopped):
            train(path, ema_momentum=0.8, **fault)
        stored = load_checkpoint(path)
        assert stored is not None
        states.append((stored.state.epoch, stored.state.step))
    (first_epoch, first_step), second = states
    assert first_epoch == 1
    assert 0 < first_step < 6
    assert second == (1, 6)  # all updates are done
    resumed, resumed_history, _ = train(path, ema_momentum=0.8)
    assert [row.loss for row in resumed_history] == pytest.approx(
        [row.loss for row in history], rel=1e-4
    )
    for resumed_array, array in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        # float32 sums in another order, over a dozen updates
        assert np.allclose(resumed_array, array, atol=1e-5)


@pytest.mark.slow
def test_a_training_on_jax_that_is_asked_to_end_saves_its_state() -> None:
    test = f"{__file__}::{test_a_training_that_is_asked_to_end_saves_its_state.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", test],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def without_seconds(history: list[EpochRow]) -> str:
    return json.dumps([{**to_json(row), "seconds": None} for row in history])


KILLED_FOR_GOOD = """
import os, signal, sys
import keras, numpy as np, tensorflow as tf
from pathlib import Path
tf.config.experimental.enable_op_determinism()
sys.path.insert(0, sys.argv[1])
import test_fit
from distill.training import epochs, fit

epochs.SECONDS_BETWEEN_CHECKPOINTS = 0.0
out, last_batch = Path(sys.argv[2]), int(sys.argv[3])

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == last_batch:
            os.kill(os.getpid(), signal.SIGKILL)

fit.EpochKeeper = type("Keeper", (fit.EpochKeeper,), {
    "on_train_batch_end": lambda self, batch, logs=None: (
        fit.EpochKeeper.__mro__[1].on_train_batch_end(self, batch, logs),
        Kill.on_train_batch_end(self, batch),
    ),
})
model, history, _ = test_fit.train(out, ema_momentum=0.9, targets=test_fit.PARTLY_LABELLED)
np.savez(out.with_suffix(".end.npz"), *model.get_weights())
out.with_suffix(".json").write_text(test_fit.without_seconds(history))
"""


def test_kill_9_within_an_epoch_changes_no_bit(tmp_path: Path) -> None:
    def run(name: str, last_batch: int) -> int:
        here, out = str(Path(__file__).parent), str(tmp_path / name)
        command = [sys.executable, "-c", KILLED_FOR_GOOD, here, out, str(last_batch)]
        return subprocess.run(command, capture_output=True).returncode

    assert run("a.npz", -1) == 0
    assert run("b.npz", 9) == -signal.SIGKILL
    assert run("b.npz", 16) == -signal.SIGKILL
    assert run("b.npz", -1) == 0
    with np.load(tmp_path / "a.end.npz") as a, np.load(tmp_path / "b.end.npz") as b:
        assert a.files
        assert all(np.array_equal(a[name], b[name]) for name in a.files)
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_the_average_of_the_weights_is_what_is_kept(tmp_path: Path) -> None:
    model, history, _ = train(tmp_path / "e.npz", ema_momentum=0.9)
    stored = load_checkpoint(tmp_path / "e.npz")
    assert stored is not None
    averaged = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    pairs = zip(averaged, stored.model, strict=True)
    assert any(not np.array_equal(average, trained) for average, trained in pairs)
    scores = validate(model, lambda: iter([(IMAGES, LABELS)]))
    assert scores.val_loss == pytest.approx(history[-1].val_loss, rel=1e-4)  # float32


def test_the_average_keeps_to_the_constraints_of_the_weights(tmp_path: Path) -> None:
    model = tiny_model()
    kernel = model.layers[-1].kernel
    mask = np.arange(16).reshape(8, 2) % 3 != 0
    kernel.constraint = lambda weights: weights * mask.astype("float32")
    # Adam moves every weight at every update, and the constraint takes these back.
    kernel.assign(kernel * mask.astype("float32"))
    train(tmp_path / "f.npz", model=model, ema_momentum=0.9)
    assert (np.asarray(kernel)[~mask] == 0).all()
    assert (np.asarray(kernel)[mask] != 0).all()


def test_early_stopping_brings_the_best_weights_back(tmp_path: Path) -> None:
    model, history, _ = train(tmp_path / "d.npz", patience=1)
    best = min(row.val_loss for row in history)
    scores = validate(model, lambda: iter([(IMAGES, LABELS)]))
    assert scores.val_loss == pytest.approx(best, rel=1e-4)  # float32


def test_validation_matches_values_worked_by_hand() -> None:
    class Fixed:
        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            return np.array([[np.log(3), 0.0], [0.0, 0.0]], "float32")

    # Probabilities (3/4, 1/4) and (1/2, 1/2) with labels 1 and 0
    scores = validate(Fixed(), lambda: iter([(IMAGES[:2], np.array([1, 0]))]))
    assert scores.val_loss == pytest.approx((np.log(4) + np.log(2)) / 2)
    assert scores.val_accuracy == 0.5


def test_the_accuracy_of_training_ignores_photos_without_a_label() -> None:
    metric = LabelledAccuracy(num_classes=2)
    labels = np.array([[1, 0], [0, 1], [0, 0], [0, 0]], "float32")
    logits = np.array([[2, 0], [2, 0], [2, 0], [0, 2]], "float32")
    metric.update_state(labels, logits)  # one of two labelled photos is right
    metric.update_state(labels[2:], logits[2:])  # a batch without labels says nothing
    metric.update_state(labels[:1], logits[:1])  # one of one, in a batch that is all labelled
    # Batches weigh 1/2, 0 and 1: (1/2 * 1/2 + 1 * 1) / (3/2)
    assert float(metric.result()) == pytest.approx(5 / 6)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    row = EpochRow(1, accuracy=1 / 3, loss=0.5, val_loss=np.pi, val_accuracy=0.25, seconds=1.5)
    state = TrainingState(step=3, seconds=2.5, stale_epochs=1, best_loss=1e-9, history=(row,))
    model = [np.arange(3.0), np.ones((2, 2)), *(np.full(1, i) for i in range(12))]
    save_checkpoint(tmp_path / "c.npz", Checkpoint(state, model, [], [np.zeros(2)], []))
    stored = load_checkpoint(tmp_path / "c.npz")
    assert stored is not None
    assert stored.state == state
    assert [array.tolist() for array in stored.model] == [array.tolist() for array in model]
    assert [len(arrays) for arrays in (stored.optimizer, stored.metrics, stored.best)] == [0, 1, 0]
