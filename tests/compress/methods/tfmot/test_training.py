from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from compress.graph.replay import copy_model
from compress.methods.tfmot.bridge import copy_back, to_tf_keras
from compress.methods.tfmot.training import FinetuneData, finetune
from configs.errors import StepFailed
from small_models import dead_model


def cross_entropy(targets, logits):
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


@pytest.fixture
def data(images):
    """Two batches that take turns, as two updates in an epoch."""
    targets = np.eye(4, dtype="float32")[np.arange(len(images)) % 4]
    examples = tf.data.Dataset.from_tensor_slices((images, targets))
    return FinetuneData(
        train=lambda initial_epoch: examples.batch(len(images) // 2).repeat(),
        steps_per_epoch=2,
        loss=cross_entropy,
    )


def finetuned(model, data, *, epochs=3):
    """A tf_keras copy of the model, trained."""
    return finetune(to_tf_keras(model), data, epochs=epochs, learning_rate=1e-2)


def test_finetuning_lowers_the_loss(tiny_model, data):
    batch, targets = next(iter(data.train(0)))
    before, after = (
        cross_entropy(targets, tf_model(batch)).numpy().mean()
        for tf_model in (to_tf_keras(tiny_model), finetuned(tiny_model, data, epochs=10))
    )
    assert after < 0.8 * before


def test_progress_counts_epochs_from_0_and_updates_from_1(tiny_model, data):
    calls = []
    finetuned(tiny_model, replace(data, progress=lambda *values: calls.append(values)))
    assert [values[:4] for values in calls[:3]] == [(0, 3, 1, 2), (0, 3, 2, 2), (1, 3, 1, 2)]
    assert all(logs["loss"] > 0 for *_, logs in calls)


def test_layers_that_were_frozen_learn_again(tiny_model, data):
    frozen = copy_model(tiny_model)
    frozen.trainable = False
    back = copy_back(finetuned(frozen, data), into=frozen)
    before, after = (model.get_layer("stem").get_weights() for model in (tiny_model, back))
    assert not np.array_equal(before, after)


class Killed(Exception):
    pass


def test_a_killed_training_continues_and_ends_in_the_same_place(tiny_model, data, tmp_path):
    undisturbed = finetuned(tiny_model, data)
    checkpoint = tmp_path / "epoch.npz"

    def die(epoch, epochs, update, updates_per_epoch, logs):
        if (epoch, update) == (1, 1):
            raise Killed

    with pytest.raises(Killed):
        finetuned(tiny_model, replace(data, checkpoint=checkpoint, progress=die))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch.npz"]
    initial_epochs = []

    def train(initial_epoch):
        initial_epochs.append(initial_epoch)
        return data.train(initial_epoch)

    resumed = finetuned(tiny_model, replace(data, checkpoint=checkpoint, train=train))
    assert initial_epochs == [1]
    # Dropout included. Threads may add up in another order, hence not bit for bit.
    for expected, weights in zip(undisturbed.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(weights, expected, atol=1e-4, err_msg=weights.name)


def test_a_finished_training_is_not_repeated(tiny_model, data, tmp_path):
    data = replace(data, checkpoint=tmp_path / "epoch.npz")
    first = finetuned(tiny_model, data)
    again = finetuned(tiny_model, replace(data, train=lambda _: pytest.fail("trained again")))
    for expected, weights in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(weights, expected)


def test_a_checkpoint_of_another_model_is_refused(tiny_model, data, tmp_path):
    data = replace(data, checkpoint=tmp_path / "epoch.npz")
    finetuned(tiny_model, data)
    other = keras.Sequential([keras.Input((16, 16, 3)), layers.Flatten(), layers.Dense(4)])
    with pytest.raises(StepFailed, match="another model"):
        finetuned(other, data)


def test_a_loss_that_is_not_a_number_stops_the_training_before_it_is_saved(
    tiny_model, data, tmp_path
):
    checkpoint = tmp_path / "epoch.npz"

    def nan(targets, logits):
        return cross_entropy(targets, logits) * np.nan

    with pytest.raises(StepFailed, match="diverged"):
        finetuned(tiny_model, replace(data, loss=nan, checkpoint=checkpoint))
    assert not checkpoint.exists()


def test_a_kernel_of_zeros_behind_which_gradients_explode_learns(data):
    trained = finetuned(dead_model(), data)
    assert np.abs(trained.get_layer("dead").kernel.numpy()).max() > 0
    assert all(np.isfinite(weights).all() for weights in trained.get_weights())
