import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compress.graph.classifier import image_size_of, last_activation, output_function
from configs.errors import UserError
from small_models import classifier


def two_inputs():
    one, two = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([one, two], layers.Flatten()(layers.Add()([one, two])))


def two_outputs():
    one = keras.Input((8, 8, 3))
    return keras.Model(one, [layers.Flatten()(one), layers.GlobalAveragePooling2D()(one)])


def test_image_size_is_height_then_width():
    assert image_size_of(classifier(layers.Dense(3), input_shape=(8, 12, 3))) == (8, 12)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (two_inputs, "2 inputs"),
        (two_outputs, "2 outputs"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]), r"\(None, 4\)"),
        (lambda: classifier(layers.Dense(2), input_shape=(None, None, 3)), "height and width"),
        (lambda: classifier(layers.Dense(2), input_shape=(8, 8, 2)), r"\(None, 8, 8, 2\)"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 1)]), "its output"),
        (lambda: classifier(layers.Dense(2, dtype="mixed_float16")), "compute in float16"),
        (lambda: keras.Sequential([layers.Dense(2)]), "0 inputs"),
        (lambda: keras.Model(), "0 inputs"),
    ],
)
def test_what_is_no_image_classifier_is_refused(model, reason):
    with pytest.raises(UserError, match=reason):
        image_size_of(model())


def with_ops_softmax():
    one = keras.Input((8, 8, 3))
    return keras.Model(one, keras.ops.softmax(layers.GlobalAveragePooling2D()(one)))


def nested():
    one = keras.Input((8, 8, 3))
    return keras.Model(one, classifier(layers.Dense(2, activation="softmax"))(one))


@pytest.mark.parametrize(
    ("model", "activation"),
    [
        (lambda: classifier(layers.Dense(2)), "linear"),
        (lambda: classifier(), "linear"),
        (lambda: classifier(layers.Dense(2, activation="softmax")), "softmax"),
        (lambda: classifier(layers.Dense(2), layers.Activation("softmax")), "softmax"),
        (lambda: classifier(layers.Dense(2), layers.Softmax()), "softmax"),
        (lambda: classifier(layers.Dense(2), layers.Softmax(), layers.Flatten()), "softmax"),
        (lambda: classifier(layers.Dense(1, activation="sigmoid")), "sigmoid"),
        (with_ops_softmax, "softmax"),
        (nested, "softmax"),
    ],
)
def test_the_last_activation_is_found(model, activation):
    assert last_activation(model()) == activation


@pytest.mark.parametrize(
    ("last_layer", "output", "outputs", "expected"),
    [
        (layers.Dense(2), "probabilities", [[np.log(3.0), 0.0]], [[0.75, 0.25]]),
        (layers.Dense(2), "logits", [[1.5, -2.0]], [[1.5, -2.0]]),
        (layers.Dense(2, activation="softmax"), "probabilities", [[0.9, 0.1]], [[0.9, 0.1]]),
        # One score, as two-class Keras models give it, speaks for the second class.
        (layers.Dense(1, activation="sigmoid"), "probabilities", [[0.8]], [[0.2, 0.8]]),
        (layers.Dense(1), "probabilities", [[np.log(3.0)]], [[0.25, 0.75]]),
        (layers.Dense(1), "logits", [[2.0]], [[0.0, 2.0]]),
    ],
)
def test_outputs_become_what_a_file_returns(last_layer, output, outputs, expected):
    finish = output_function(classifier(last_layer), output)
    # float32 rounding of numbers near 1.
    np.testing.assert_allclose(finish(tf.constant(outputs, tf.float32)), expected, atol=1e-6)


def test_logits_of_a_model_that_ends_in_softmax_are_refused():
    with pytest.raises(UserError, match="ends in softmax"):
        output_function(classifier(layers.Dense(2, activation="softmax")), "logits")
