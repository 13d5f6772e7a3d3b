import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.replay import copy_model
from compress.methods.tfmot.bridge import copy_back, import_tfmot, to_tf_keras
from configs.errors import UserError


def every_layer():
    """A model with nested models, and with the layers that the other models here lack."""
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


def test_layers_that_were_frozen_are_trainable(tiny_model, images):
    frozen = copy_model(tiny_model)
    frozen.trainable = False
    tf_model = to_tf_keras(frozen)
    np.testing.assert_allclose(tf_model(images), tiny_model(images), atol=1e-5)
    assert len(tf_model.trainable_variables) == len(tiny_model.trainable_variables)


def test_tfmot_leaves_keras_and_the_environment_as_they_were():
    assert import_tfmot().sparsity.keras.prune_low_magnitude
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    child = """
import os, keras, tensorflow as tf
from compress.methods.tfmot.bridge import import_tfmot
import_tfmot()
print(tf.keras.version()[0], 'TF_USE_LEGACY_KERAS' in os.environ)
"""
    run = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["3", "False"]
