from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from distill.checkpoint import load_checkpoint, save_checkpoint
from distill.losses import label_objective
from distill.training import Schedule, fit, validate

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (24, 4, 4, 3)).astype("float32")
LABELS = (IMAGES.mean(axis=(1, 2, 3)) > 0).astype("int32")
ONE_HOT = np.eye(2, dtype="float32")[LABELS]


class Killed(Exception):
    pass


def tiny_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(8, activation="relu")(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(x)))


def batches(initial_epoch: int, *, kill_in: int | None = None) -> tf.data.Dataset:
    """Six steps an epoch, each epoch in an order of its own; may die in the middle of one."""

    def all_steps():
        for epoch in range(initial_epoch, 100):
            order = np.random.default_rng(epoch).permutation(24)
            for step in range(6):
                if epoch == kill_in and step == 3:
                    raise Killed
                rows = order[4 * step : 4 * step + 4]
                yield IMAGES[rows], ONE_HOT[rows]

    shapes = (tf.TensorSpec((4, 4, 4, 3)), tf.TensorSpec((4, 2)))
    return tf.data.Dataset.from_generator(all_steps, output_signature=shapes)


def train(path: Path, *, kill_in: int | None = None, key: str = "k", patience: int | None = None):
    model = tiny_model()
    prepared = []
    history = fit(
        model,
        train=lambda epoch: batches(epoch, kill_in=kill_in),
        validation=lambda: iter([(IMAGES, LABELS)]),
        objective=label_objective(0.0),
        schedule=Schedule(4, 6, learning_rate=0.01, weight_decay=1e-4, patience=patience),
        checkpoint=path,
        key=key,
        name="tiny",
        prepare=lambda: prepared.append(1),
    )
    return model, history, prepared


def test_a_training_that_was_killed_ends_like_the_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, history, _ = train(tmp_path / "a.npz")
    with pytest.raises(tf.errors.UnknownError):
        train(tmp_path / "b.npz", kill_in=2)
    resumed, resumed_history, prepared = train(tmp_path / "b.npz")
    assert not prepared  # the head's training is part of the checkpoint
    assert [row["epoch"] for row in resumed_history] == [1, 2, 3, 4]
    assert [row["val_loss"] for row in resumed_history] == pytest.approx(
        [row["val_loss"] for row in history], rel=1e-4
    )
    for ours, theirs in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        # float32 sums in another order, over a dozen steps
        assert np.allclose(ours, theirs, atol=1e-5)


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(tf.errors.UnknownError):
        train(tmp_path / "c.npz", kill_in=2)
    _, history, prepared = train(tmp_path / "c.npz", key="other")
    assert prepared
    assert len(history) == 4


def test_early_stopping_brings_the_best_weights_back(tmp_path: Path) -> None:
    model, history, _ = train(tmp_path / "d.npz", patience=1)
    best = min(row["val_loss"] for row in history)
    again = validate(model, lambda: iter([(IMAGES, LABELS)]))
    assert again["val_loss"] == pytest.approx(best, rel=1e-4)  # float32


def test_validation_matches_values_worked_by_hand() -> None:
    class Fixed:
        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            return np.array([[np.log(3), 0.0], [0.0, 0.0]], "float32")

    # Probabilities (3/4, 1/4) and (1/2, 1/2) with labels 1 and 0
    scores = validate(Fixed(), lambda: iter([(IMAGES[:2], np.array([1, 0]))]))
    assert scores["val_loss"] == pytest.approx((np.log(4) + np.log(2)) / 2)
    assert scores["val_accuracy"] == 0.5


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    arrays = {"model": [np.arange(3.0), np.ones((2, 2))], "best": []}
    save_checkpoint(tmp_path / "c.npz", {"epoch": 3}, arrays)
    stored = load_checkpoint(tmp_path / "c.npz")
    assert stored is not None
    state, read = stored
    assert state == {"epoch": 3}
    assert [a.tolist() for a in read["model"]] == [a.tolist() for a in arrays["model"]]
