import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.replay import copy_model
from compress.int8.bias_correction import correct_biases
from compress.int8.calibration import CalibratedModel
from small_models import random_images, settle


def answers(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict_on_batch(images))


def round_as_runtimes_do(layer, steps) -> None:
    """Round a kernel with one scale for each output channel."""
    kernel = np.asarray(layer.kernel)
    axes = (0, 1) if isinstance(layer, layers.DepthwiseConv2D) else tuple(range(kernel.ndim - 1))
    step = np.abs(kernel).max(axis=axes, keepdims=True) / steps
    layer.kernel.assign(np.round(kernel / step) * step)


@pytest.mark.parametrize(("norm", "steps"), [(True, 127), (False, 127), (True, 64)])
def test_rounded_kernels_shift_nothing_on_average_once_biases_make_up_for_it(norm, steps) -> None:
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 3), name="image")
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=not norm, name="depthwise")(pixels)
    x = (
        layers.BatchNormalization(name="end")(x)
        if norm
        else layers.Activation("linear", name="end")(x)
    )
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    images = random_images(64, 8)
    settle(model, images)

    def mean_shift(other: keras.Model) -> float:
        before, after = (
            answers(keras.Model(network.inputs, network.get_layer("end").output), images)
            for network in (model, other)
        )
        return float(np.abs((after - before).mean(axis=(0, 1, 2))).max())

    corrected, plain = copy_model(model), copy_model(model)
    correct_biases(corrected, images, steps)
    for network in (corrected, plain):
        round_as_runtimes_do(network.get_layer("depthwise"), steps)
    assert mean_shift(plain) > 1e-4
    assert mean_shift(corrected) < 0.02 * mean_shift(plain)


def test_calibration_leaves_the_model_itself_alone(tiny_model, images) -> None:
    before = [array.copy() for array in tiny_model.get_weights()]
    calibrated = CalibratedModel(tiny_model, images).model
    for array, old in zip(tiny_model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, old)
    # Biases are corrected by what int8 would add: near, not equal.
    np.testing.assert_allclose(answers(calibrated, images), answers(tiny_model, images), atol=0.2)
