import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from compress.graph.replay import copy_model
from compress.methods.tfmot import (
    copy_back,
    finetune,
    import_tfmot,
    to_tf_keras,
)
from configs.errors import StepFailed, UserError


def cross_entropy(targets, logits):
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


def batches_of(images, num_classes):
    """Two batches, taking turns for ever."""
    targets = np.eye(num_classes, dtype="float32")[np.arange(len(images)) % num_classes]
    examples = tf.data.Dataset.from_tensor_slices((images, targets))
    return lambda initial_epoch: examples.batch(len(images) // 2).repeat()


@pytest.fixture
def course(images):
    """Arguments of `finetune` for three short epochs."""
    return {
        "train": batches_of(images, 4),
        "steps_per_epoch": 2,
        "epochs": 3,
        "loss": cross_entropy,
        "learning_rate": 1e-2,
    }


def every_layer():
    """The known layers that the tiny model and EfficientNet lack, and nested models."""
    keras.utils.set_random_seed(2)
    pixels = keras.Input((16, 16, 3))
    inner = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu", name="conv"),
            layers.MaxPooling2D(2, padding="same"),
        ],
        name="inner",
    )
    x = inner(pixels)
    left = layers.Conv2D(4, 3, padding="same", groups=2, dilation_rate=2, name="conv")(x)
    right = layers.AveragePooling2D(3, strides=1, padding="same")(x)
    x = layers.Concatenate()([layers.Maximum()([left, right]), layers.Subtract()([left, right])])
    x = layers.Concatenate()([x, layers.Average()([x, layers.ReLU(None, 0.1)(x)])])
    x = layers.Conv2D(4, 3, activation="gelu", data_format="channels_last")(x)
    shared = layers.Dense(6, activation="tanh")
    pooled = [layers.GlobalMaxPooling2D()(x), layers.Flatten()(layers.MaxPooling2D(5)(x))]
    return keras.Model(pixels, layers.Softmax()(layers.Add()([shared(y) for y in pooled])))


def test_the_tiny_model_answers_the_same_in_tf_keras(tiny_model, images):
    tf_model = to_tf_keras(tiny_model)
    # The same kernels run on the same numbers; 1e-5 is rounding.
    np.testing.assert_allclose(
        tf_model.predict_on_batch(images), tiny_model.predict_on_batch(images), atol=1e-5
    )


def test_efficientnet_answers_the_same_in_tf_keras(efficientnet):
    images = np.random.default_rng(2).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    expected = efficientnet.predict_on_batch(images)
    assert np.ptp(expected) > 0.1  # otherwise anything would be equal
    np.testing.assert_allclose(
        to_tf_keras(efficientnet).predict_on_batch(images), expected, atol=1e-5
    )


def test_nested_models_are_flattened_and_their_layers_named_after_them(images):
    model = every_layer()
    tf_model = to_tf_keras(model)
    np.testing.assert_allclose(
        tf_model.predict_on_batch(images), model.predict_on_batch(images), atol=1e-5
    )
    names = [layer.name for layer in tf_model.layers]
    assert "inner.conv" in names
    assert "conv" in names


def test_an_adapted_normalization_crosses_with_its_constants(images):
    normalization = layers.Normalization()
    normalization.adapt(images)
    model = keras.Sequential([keras.Input((16, 16, 3)), normalization, layers.Flatten()])
    np.testing.assert_allclose(
        to_tf_keras(model).predict_on_batch(images), model.predict_on_batch(images), atol=1e-5
    )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.LayerNormalization(name="odd"), r"'odd' \(LayerNormalization\)"),
        (layers.Conv2D(2, 1, data_format="channels_first", name="odd"), r"'odd' \(Conv2D\)"),
        (layers.Activation("hard_silu", name="odd"), "activation 'hard_silu'"),
        (layers.Lambda(lambda x: x * 2, name="odd"), r"'odd' \(Lambda\)"),
    ],
)
def test_a_layer_without_counterpart_is_named(layer, message):
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    with pytest.raises(UserError, match=message):
        to_tf_keras(model)


def test_weights_come_back_by_layer_name(tiny_model, images):
    tf_model = to_tf_keras(tiny_model)
    for variable in tf_model.trainable_variables:
        variable.assign(variable * 1.1)
    back = copy_back(tf_model, into=copy_model(tiny_model))
    np.testing.assert_allclose(
        back.predict_on_batch(images), tf_model.predict_on_batch(images), atol=1e-5
    )


def test_finetuning_lowers_the_loss(tiny_model, course):
    tf_model = to_tf_keras(tiny_model)
    first, targets = next(iter(course["train"](0)))
    before = cross_entropy(targets, tf_model(first)).numpy().mean()
    finetune(tf_model, **{**course, "epochs": 10})
    assert cross_entropy(targets, tf_model(first)).numpy().mean() < 0.8 * before


def test_progress_counts_epochs_from_0_and_steps_done(tiny_model, course):
    told = []
    finetune(to_tf_keras(tiny_model), **course, progress=lambda *where: told.append(where))
    assert [where[:4] for where in told[:3]] == [(0, 3, 1, 2), (0, 3, 2, 2), (1, 3, 1, 2)]
    assert all(where[4]["loss"] > 0 for where in told)


def test_layers_that_were_frozen_learn_again(tiny_model, images, course):
    frozen = copy_model(tiny_model)
    frozen.trainable = False
    tf_model = to_tf_keras(frozen)
    np.testing.assert_allclose(tf_model(images), tiny_model(images), atol=1e-5)
    assert len(tf_model.trainable_variables) == len(tiny_model.trainable_variables)
    back = copy_back(finetune(tf_model, **course), into=frozen)
    assert not np.array_equal(
        back.get_layer("stem").get_weights(), tiny_model.get_layer("stem").get_weights()
    )


class Killed(Exception):
    pass


def test_a_killed_run_continues_and_ends_in_the_same_place(tiny_model, course, tmp_path):
    undisturbed = finetune(to_tf_keras(tiny_model), **course)
    checkpoint = tmp_path / "epoch.npz"

    def die(epoch, epochs, step, steps_per_epoch, logs):
        if (epoch, step) == (1, 1):
            raise Killed

    with pytest.raises(Killed):
        finetune(to_tf_keras(tiny_model), **course, checkpoint=checkpoint, progress=die)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch.npz"]
    started_at = []
    resumed = finetune(
        to_tf_keras(tiny_model),
        **{**course, "train": lambda epoch: (started_at.append(epoch), course["train"](epoch))[1]},
        checkpoint=checkpoint,
    )
    assert started_at == [1]
    # Dropout included. Threads may add up in another order, hence not bit for bit.
    for one, other in zip(undisturbed.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, err_msg=one.name)


def test_a_finished_run_is_not_repeated(tiny_model, course, tmp_path):
    checkpoint = tmp_path / "epoch.npz"
    first = finetune(to_tf_keras(tiny_model), **course, checkpoint=checkpoint)
    again = finetune(
        to_tf_keras(tiny_model),
        **{**course, "train": lambda epoch: pytest.fail("trained again")},
        checkpoint=checkpoint,
    )
    for one, other in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_of_another_model_is_refused(tiny_model, course, tmp_path):
    checkpoint = tmp_path / "epoch.npz"
    finetune(to_tf_keras(tiny_model), **course, checkpoint=checkpoint)
    other = keras.Sequential([keras.Input((16, 16, 3)), layers.Flatten(), layers.Dense(4)])
    with pytest.raises(StepFailed, match="another model"):
        finetune(to_tf_keras(other), **course, checkpoint=checkpoint)


def test_a_loss_that_is_no_number_stops_before_it_is_saved(tiny_model, course, tmp_path):
    checkpoint = tmp_path / "epoch.npz"
    wrong = {**course, "loss": lambda targets, logits: cross_entropy(targets, logits) * np.nan}
    with pytest.raises(StepFailed, match="diverged"):
        finetune(to_tf_keras(tiny_model), **wrong, checkpoint=checkpoint)
    assert not checkpoint.exists()


def test_tfmot_leaves_keras_and_the_environment_as_they_were():
    assert import_tfmot().sparsity.keras.prune_low_magnitude
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    child = (
        "import compress.methods.tfmot as t; t.import_tfmot(); import os, keras, tensorflow as tf; "
    )
    child += "print(tf.keras.version()[0], 'TF_USE_LEGACY_KERAS' in os.environ)"
    run = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["3", "False"]


def test_a_kernel_of_zeros_behind_which_gradients_explode_learns(course):
    keras.utils.set_random_seed(0)
    x = pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="dead")(x)
    for _ in range(16):
        x = layers.Conv2D(8, 1, use_bias=False)(layers.BatchNormalization(epsilon=1e-3)(x))
    model = keras.Model(pixels, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    model.get_layer("dead").kernel.assign(np.zeros((3, 3, 3, 8)))
    trained = finetune(to_tf_keras(model), **course)
    assert np.abs(trained.get_layer("dead").kernel.numpy()).max() > 0
    assert all(np.isfinite(weights).all() for weights in trained.get_weights())
