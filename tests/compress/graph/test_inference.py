import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compress.graph.graph import copy_of
from compress.graph.inference import (
    TracedModel,
    check_parity,
    last_activation,
    output_function,
)
from compress.recipes.conversion import Conversion
from compress.recipes.tflite import RECIPES
from configs.errors import StepFailed, UserError
from small_models import classifier


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


def test_the_frozen_function_has_one_input_of_static_shape_and_no_variables(tiny_model, images):
    frozen = TracedModel(tiny_model).frozen_function("logits")
    assert [tuple(tensor.shape) for tensor in frozen.inputs] == [(1, 16, 16, 3)]
    assert not frozen.variables
    assert tuple(frozen.outputs[0].shape) == (1, 4)
    (logits,) = tf.nest.flatten(frozen(tf.constant(images[:1])))
    # Other kernels for other batches: float32 rounding only.
    np.testing.assert_allclose(logits, tiny_model(images[:1]), atol=1e-5)


def test_parity_of_a_float_file_is_measured_and_a_wrong_file_refused(tiny_model, images, tmp_path):
    path = tmp_path / "tiny.tflite"
    RECIPES["tflite.float32"](Conversion(tiny_model, lambda: iter(images)), path, output="logits")
    assert check_parity(tiny_model, path, images, output="logits") < 1e-5
    other = copy_of(tiny_model)
    bias = other.get_layer("logits").bias
    bias.assign(bias + 0.01)
    with pytest.raises(StepFailed, match=r"differs from its Keras model by up to 0\.01"):
        check_parity(other, path, images, output="logits")
