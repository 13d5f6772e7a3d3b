"""Exact rewrites that leave less to round, and the correction of what rounded weights shift."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from compress.graph.graph import (
    Graph,
    Use,
    batches,
    copy_of,
    rebuilt,
    replay,
)

HAS_KERNEL = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
INT8_STEPS = 127
"""Of a kernel's largest weight: kernels are rounded symmetrically around 0."""
ACTIVATION = ".activation"
"""Ends the name of an activation that was part of a layer."""


class Offset(keras.Layer):
    """x + offset. Rescaling with a scale of 1 leaves converters a multiplication to round."""

    def __init__(self, offset: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offset = offset

    def call(self, x: Any) -> Any:
        # For a whole row: runtimes are slow at adding three numbers again and again.
        row = np.tile(self.offset, (1, x.shape[-2], 1))
        return x + keras.ops.convert_to_tensor(row, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "offset": self.offset}


def prepared(model: keras.Model, images: np.ndarray, kernel_steps: int = INT8_STEPS) -> keras.Model:
    """The model as it is best converted to int8: the same answers in fewer tensors to round.

    Args:
        images: float32, (images, height, width, 3), from the training split.
        kernel_steps: that the largest weight of a kernel will have.
    """
    simpler = simplified(model)
    correct_biases(simpler, images, kernel_steps)
    return simpler


def simplified(model: keras.Model) -> keras.Model:
    """The same model with preprocessing and normalizations in kernels, and activations as layers.

    Preprocessing (scale, subtract the mean, divide by the deviation) is rounded three times where
    one subtraction in pixels is exact in int8. The offset stays ahead of the zero padding. And a
    file rounds what goes into an activation, too: as a layer it has a name.
    """
    graph = Graph.of(model)
    if graph.shared_name():
        return copy_of(model)
    scaling, kernel = _input_scaling(graph)
    scale, offset = _scale_and_offset(scaling)
    norms = _norms_of_kernels(graph)
    folded = [norm for _, norm in norms.values()]
    twins: dict[int, Any] = {}

    def stand_in(layer: Any) -> Callable:
        if scaling and layer is scaling[0] and offset.any():
            return Offset((offset / scale).tolist(), name="input_offset")
        if any(layer is other for other in (*scaling, *folded)):
            return lambda x, **_: x
        if id(layer) in norms:
            return _with_norm(*norms[id(layer)])
        activation = getattr(layer, "activation", None)
        if not isinstance(layer, HAS_KERNEL) or activation in (None, keras.activations.linear):
            return layer
        if id(layer) not in twins:
            activated = layers.Activation(activation, name=layer.name + ACTIVATION)
            twins[id(layer)] = with_settings(layer, activation="linear"), activated
        twin, activated = twins[id(layer)]
        return lambda x: activated(twin(x))

    simpler = rebuilt(model, stand_in)
    if scaling:
        reader = simpler.get_layer(kernel.name)
        reader.kernel.assign(reader.kernel * scale[:, None].astype("float32"))
    return simpler


def with_settings(layer: Any, **changes: Any) -> Any:
    """A copy of a layer, weights included, with some of its settings changed."""
    twin = type(layer).from_config({**layer.get_config(), **changes})
    twin.build(layer.get_build_config()["input_shape"])
    twin.set_weights(layer.get_weights()[: len(twin.weights)])
    return twin


def _norms_of_kernels(graph: Graph) -> dict[int, tuple[Any, Any]]:
    """(layer, BatchNormalization) where nothing else reads what the layer gives, by its id.

    Converters fold one into the other, so that no file rounds what lies between them.
    """
    found = {}
    for use in graph.uses:
        readers = graph.readers(use.output)
        pair = [use.layer, *(reader.layer for reader in readers)]
        if (
            len(readers) == 1
            and isinstance(use.layer, HAS_KERNEL)
            and isinstance(pair[1], layers.BatchNormalization)
            and use.layer.activation is keras.activations.linear
            and getattr(use.layer, "data_format", "channels_last") == "channels_last"
            and pair[1].axis in (-1, len(use.output.shape) - 1)
            and all(graph.num_uses(layer) == 1 for layer in pair)
        ):
            found[id(use.layer)] = pair[0], pair[1]
    return found


def _with_norm(layer: Any, norm: Any) -> Any:
    """A layer with a kernel that does what a BatchNormalization does to its output, too."""
    twin = type(layer).from_config({**layer.get_config(), "use_bias": True})
    twin.build(layer.get_build_config()["input_shape"])
    factor = 1 / np.sqrt(np.asarray(norm.moving_variance, "float64") + norm.epsilon)
    factor *= np.asarray(norm.gamma) if norm.scale else 1.0
    offset = -np.asarray(norm.moving_mean) * factor + (np.asarray(norm.beta) if norm.center else 0)
    kernel = np.asarray(layer.kernel)
    # A depthwise kernel has its output channels in two axes.
    by_channel = factor.reshape(kernel.shape[2:]) if _is_depthwise(layer) else factor
    twin.kernel.assign((kernel * by_channel).astype("float32"))
    twin.bias.assign((np.asarray(layer.bias) if layer.use_bias else 0) * factor + offset)
    return twin


def _is_depthwise(layer: Any) -> bool:
    return isinstance(layer, layers.DepthwiseConv2D)


def _input_scaling(graph: Graph) -> tuple[list[Any], Any]:
    """The layers that scale the pixels, and the one whose kernel reads what they give.

    Nothing if another kind of layer reads it.
    """
    tensor, scaling, padded = graph.inputs, [], False
    while len(readers := graph.readers(tensor)) == 1:
        use = readers[0]
        if graph.num_uses(use.layer) != 1:
            break
        if isinstance(use.layer, layers.Rescaling | layers.Normalization) and not padded:
            scaling.append(use.layer)
        elif isinstance(use.layer, layers.ZeroPadding2D):
            padded = True
        else:
            return (scaling, use.layer) if _reads_pixels(use.layer) else ([], None)
        tensor = use.output
    return [], None


def _reads_pixels(layer: Any) -> bool:
    return (
        isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D)
        and layer.data_format == "channels_last"
        and getattr(layer, "groups", 1) == 1
    )


def _scale_and_offset(scaling: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """What all of the layers together do to a pixel: times (3,), plus (3,)."""
    scale, offset = np.ones(3), np.zeros(3)
    for layer in scaling:
        factor, term = _factor_and_offset(layer)
        scale, offset = scale * factor, offset * factor + term
    return scale, offset


def _factor_and_offset(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(layer, layers.Rescaling):
        return np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    mean, variance = np.ravel(layer.mean), np.ravel(layer.variance)
    # As the layer divides.
    factor = 1 / np.maximum(np.sqrt(variance.astype("float64")), keras.config.epsilon())
    if layer.invert:
        return 1 / factor, mean
    return factor, -mean * factor


def correct_biases(model: keras.Model, images: np.ndarray, kernel_steps: int = INT8_STEPS) -> None:
    """Make the biases of a model make up for what rounding its kernels to int8 adds on average.

    The error of a rounded kernel has a mean, as its inputs have one (after a swish nearly all are
    positive). It is taken off the bias, or the beta of the BatchNormalization that follows (Nagel
    et al. 2019, section 4.2, arXiv:1906.04721, measured on images as in their appendix D).

    Args:
        images: float32, (images, height, width, 3), from the training split.
        kernel_steps: that the largest weight of a kernel will have.
    """
    graph = Graph.of(model)
    kernels = [use for use in graph.uses if isinstance(use.layer, HAS_KERNEL)]
    kernels = [use for use in kernels if graph.num_uses(use.layer) == 1]
    numbers = {id(use.layer): number for number, use in enumerate(kernels)}

    # Traced: eager tensors of a model live until its last layer is done, whoever still reads them.
    @tf.function(autograph=False)
    def input_sums(batch: Any) -> list[Any]:
        sums: list[Any] = [None] * len(kernels)

        def summed(layer: Any) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                if id(layer) in numbers:
                    sums[numbers[id(layer)]] = tf.reduce_sum(args[0], axis=0, keepdims=True)
                return layer(*args, **kwargs)

            return call

        replay(model, batch, summed)
        return sums

    # Kernels are linear: the mean of what the error gives is what it gives for the mean input.
    sums: list[Any] = [0.0] * len(kernels)
    for batch in batches(images):
        sums = [a + b for a, b in zip(sums, input_sums(tf.convert_to_tensor(batch)), strict=True)]
    for use, total in zip(kernels, sums, strict=True):
        error = _rounding_error(use.layer, kernel_steps)
        added = np.asarray(_applied(use.layer, error, total / len(images)))
        add_to_bias(graph, use, -added.mean(axis=tuple(range(added.ndim - 1))))


def _rounding_error(layer: Any, kernel_steps: int) -> np.ndarray:
    """What rounding adds to a layer's kernel."""
    return np.asarray(rounded_kernel(layer, layer.kernel, kernel_steps) - layer.kernel)


def _applied(layer: Any, kernel: np.ndarray, x: Any) -> Any:
    """What a layer would give with another kernel and no bias."""
    if isinstance(layer, layers.Dense):
        return keras.ops.matmul(x, kernel)
    convolve = keras.ops.depthwise_conv if _is_depthwise(layer) else keras.ops.conv
    return convolve(
        x,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def rounded_kernel(layer: Any, kernel: Any, kernel_steps: int = INT8_STEPS) -> Any:
    """A kernel of a layer as integer files hold it: one scale for each output channel.

    Args:
        kernel_steps: that the largest weight of a channel has.
    """
    ndim = len(kernel.shape)
    outputs = (2, 3) if _is_depthwise(layer) else (ndim - 1,)
    axes = tuple(axis for axis in range(ndim) if axis not in outputs)
    largest = keras.ops.max(keras.ops.abs(kernel), axis=axes, keepdims=True)
    step = keras.ops.maximum(largest, 1e-12) / kernel_steps
    return keras.ops.round(kernel / step) * step


def add_to_bias(graph: Graph, use: Use, mean: np.ndarray) -> None:
    """Add to every output of a kernel, where it has a bias or a BatchNormalization behind.

    Args:
        mean: (channels,).
    """
    readers = graph.readers(use.output)
    norm = readers[0].layer if len(readers) == 1 else None
    if use.layer.use_bias:
        use.layer.bias.assign(use.layer.bias + mean)
    elif (
        isinstance(norm, layers.BatchNormalization)
        and graph.num_uses(norm) == 1
        and use.layer.activation is keras.activations.linear
    ):
        # Not to beta: in training the mean of a batch has no part of what is added.
        norm.moving_mean.assign(norm.moving_mean - mean)
