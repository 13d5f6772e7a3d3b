import numpy as np
import pytest
from keras import layers

from compress.graph.kernels import (
    by_input,
    by_output,
    has_kernel,
    mixes_channels,
    round_kernel,
    step_size,
    weighs_each_input,
)


def built(layer):
    layer.build((None, 8, 8, 4) if not isinstance(layer, layers.Dense) else (None, 4))
    return layer


@pytest.mark.parametrize(
    ("layer", "kernel", "each_input", "mixes"),
    [
        (layers.Conv2D(6, 3), True, True, True),
        (layers.Dense(6), True, True, True),
        (layers.DepthwiseConv2D(3), True, True, False),
        (layers.Conv2D(4, 3, groups=2), True, False, False),
        (layers.Conv2D(4, 3, data_format="channels_first"), True, False, False),
        (layers.SeparableConv2D(4, 3), False, False, False),
        (layers.BatchNormalization(), False, False, False),
    ],
)
def test_layers_are_told_apart_by_their_kernels(layer, kernel, each_input, mixes) -> None:
    assert has_kernel(layer) is kernel
    assert weighs_each_input(layer) is each_input
    assert mixes_channels(layer) is mixes


def test_a_kernel_has_a_scale_for_each_output_channel() -> None:
    # The largest weights are 1.27 and 127: steps of 0.01 and 1.
    kernel = np.array([[1.27, 127.0], [0.014, 1.4], [-0.016, -1.6]], "float32")
    layer = layers.Dense(2)
    expected = [[1.27, 127.0], [0.01, 1.0], [-0.02, -2.0]]
    np.testing.assert_allclose(round_kernel(layer, kernel), expected, rtol=1e-6)
    # With one step from 0 to the largest weight everything else becomes 0.
    expected = [[1.27, 127.0], [0.0, 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(round_kernel(layer, kernel, kernel_steps=1), expected, rtol=1e-6)


def test_a_depthwise_kernel_has_its_outputs_in_two_axes() -> None:
    kernel = np.zeros((1, 2, 2, 2), "float32")  # (height, width, channels, multiplier)
    kernel[0, 0] = [[127, 1.27], [12.7, 0.127]]
    kernel[0, 1] = [[1.4, 0.014], [0.14, 0.0014]]
    rounded = np.asarray(round_kernel(layers.DepthwiseConv2D((1, 2)), kernel))
    np.testing.assert_allclose(rounded[0, 1], [[1, 0.01], [0.1, 0.001]], rtol=1e-5)


def test_a_kernel_of_zeros_stays_zero() -> None:
    zeros = np.zeros((3, 2), "float32")
    np.testing.assert_array_equal(round_kernel(layers.Dense(2), zeros), zeros)


def test_the_step_of_a_float64_kernel_is_float64() -> None:
    step = np.asarray(step_size(np.full((2, 3), 0.1), (0,)))
    assert step.dtype == "float64"
    np.testing.assert_array_equal(step, np.full((2, 1), 0.1 / 127))


@pytest.mark.parametrize(
    "layer",
    [layers.Conv2D(6, 3), layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Dense(6)],
    ids=["convolution", "depthwise", "dense"],
)
def test_values_of_channels_multiply_their_part_of_a_kernel(layer) -> None:
    built(layer)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    images = images if not isinstance(layer, layers.Dense) else images[:, 0, 0]
    before = np.asarray(layer(images))
    kernel = np.asarray(layer.kernel)
    factors = np.arange(1, before.shape[-1] + 1, dtype="float32")
    layer.kernel.assign(kernel * by_output(layer, factors))
    np.testing.assert_allclose(layer(images), before * factors, rtol=1e-5, atol=1e-5)
    factors = np.arange(1, 5, dtype="float32")
    layer.kernel.assign(kernel * by_input(factors))
    np.testing.assert_allclose(layer(images / factors), before, rtol=1e-5, atol=1e-5)
