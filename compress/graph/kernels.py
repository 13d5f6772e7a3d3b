"""Kernels: which layers have one, how its axes lie, and how int8 files round it."""

from typing import Any

import numpy as np
from keras import layers, ops

KERNEL_LAYERS = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
"""The layers whose kernel int8 files round."""
INT8_STEPS = 127
"""Steps from 0 to the largest weight of a kernel. Kernels are rounded symmetrically around 0."""
MAX_CLUSTERS = 256
"""A kernel with more different values would be no smaller than one of 8-bit numbers."""
MAX_STEP_ERROR = 1e-5
"""How far a weight may lie beside its int8 step, as a share of the largest weight: float32."""
SMALLEST_WEIGHT = 1e-12
"""A kernel of zeros is rounded as if this were its largest weight."""


def has_kernel(layer: Any) -> bool:
    """Whether a layer has a kernel that int8 files round."""
    return isinstance(layer, KERNEL_LAYERS)


def is_depthwise(layer: Any) -> bool:
    """Whether every output channel of a layer comes from one input channel."""
    return isinstance(layer, layers.DepthwiseConv2D)


def is_channels_last(layer: Any) -> bool:
    """Whether the last axis of what a layer reads and returns counts the channels."""
    return bool(getattr(layer, "data_format", "channels_last") == "channels_last")


def weighs_each_input(layer: Any) -> bool:
    """Whether a layer has a kernel with weights of its own for every channel that it reads.

    The groups of a grouped convolution read different channels with the same axis of the kernel.
    """
    return has_kernel(layer) and is_channels_last(layer) and getattr(layer, "groups", 1) == 1


def mixes_channels(layer: Any) -> bool:
    """Whether a layer has a kernel that makes every output channel from all input channels."""
    return weighs_each_input(layer) and not is_depthwise(layer)


def by_output(layer: Any, values: np.ndarray) -> np.ndarray:
    """One value for each output channel, (channels,), in a shape that multiplies the kernel."""
    # The last two axes of a depthwise kernel are (input channels, multiplier).
    return values.reshape(layer.kernel.shape[2:]) if is_depthwise(layer) else values


def by_input(values: np.ndarray) -> np.ndarray:
    """One value for each input channel, (channels,), in a shape that multiplies the kernel."""
    # Kernels are (height, width, in, out), depthwise (height, width, in, multiplier) or (in, out).
    return values[:, None]


def round_kernel(layer: Any, kernel: Any, kernel_steps: int = INT8_STEPS) -> Any:
    """A kernel of a layer as int8 files hold it, with one scale for each output channel.

    Args:
        layer: says which axes of the kernel count the output channels.
        kernel: an array or a tensor.
        kernel_steps: the number of steps from 0 to the largest weight of a channel.
    """
    ndim = len(kernel.shape)
    step = step_size(kernel, (2, 3) if is_depthwise(layer) else (ndim - 1,), kernel_steps)
    return ops.round(kernel / step) * step


def has_few_values(layer: Any) -> bool:
    """Whether a kernel has the few values that `cluster` gave it, or the int8 steps of `qat`."""
    kernel = np.asarray(layer.kernel)
    weights = kernel[kernel != 0]
    if weights.size and len(np.unique(weights)) <= min(MAX_CLUSTERS, weights.size / 4):
        return True
    error = np.abs(np.asarray(round_kernel(layer, kernel)) - kernel)
    return bool(weights.size and error.max() <= MAX_STEP_ERROR * np.abs(weights).max())


def step_size(kernel: Any, output_axes: tuple[int, ...], kernel_steps: int = INT8_STEPS) -> Any:
    """The size of a step of a rounded kernel, in a shape that divides the kernel.

    Args:
        output_axes: the axes of the kernel that count the output channels; each of these channels
            has a scale of its own.
        kernel_steps: the number of steps from 0 to the largest weight of a channel.
    """
    axes = tuple(axis for axis in range(len(kernel.shape)) if axis not in output_axes)
    largest = ops.max(ops.abs(kernel), axis=axes, keepdims=True)
    return ops.maximum(largest, SMALLEST_WEIGHT) / kernel_steps


def convolve(layer: Any, kernel: Any, x: Any) -> Any:
    """What a layer would return with another kernel, without its bias and activation."""
    if isinstance(layer, layers.Dense):
        return ops.matmul(x, kernel)
    convolution = ops.depthwise_conv if is_depthwise(layer) else ops.conv
    return convolution(
        x,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )
