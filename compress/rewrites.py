"""Exact rewrites that leave less to round, and the correction of what rounded weights shift."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from compress.graph import Graph, Use, batches, copy_of, named_layers, rebuilt, replay

HAS_KERNEL = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
ACTIVATION = ".activation"
"""Ends the name of an activation that was part of a layer."""


class _Offset(keras.Layer):
    """x + offset. Rescaling with a scale of 1 leaves converters a multiplication to round."""

    def __init__(self, offset: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offset = offset

    def call(self, x: Any) -> Any:
        return x + keras.ops.convert_to_tensor(self.offset, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "offset": self.offset}


def prepared(model: keras.Model, images: np.ndarray) -> keras.Model:
    """The model as it is best converted to int8: the same answers in fewer tensors to round.

    Args:
        images: float32, (images, height, width, 3), from the training split.
    """
    simpler = simplified(model)
    correct_biases(simpler, images)
    return simpler


def simplified(model: keras.Model) -> keras.Model:
    """The same model with preprocessing in its first kernel, and activations as layers.

    Preprocessing (scale, subtract the mean, divide by the deviation) is rounded three times where
    one subtraction in pixels is exact in int8. The offset stays ahead of the zero padding. And a
    file rounds what goes into an activation, too: as a layer it has a name.
    """
    graph = Graph.of(model)
    if graph.shared_name():
        return copy_of(model)
    scaling, kernel = _input_scaling(graph)
    scale, offset = _scale_and_offset(scaling)
    twins: dict[int, Any] = {}

    def stand_in(layer: Any) -> Callable:
        if scaling and layer is scaling[0] and offset.any():
            return _Offset((offset / scale).tolist(), name="input_offset")
        if any(layer is other for other in scaling):
            return lambda x: x
        activation = getattr(layer, "activation", None)
        if not isinstance(layer, HAS_KERNEL) or activation in (None, keras.activations.linear):
            return layer
        if id(layer) not in twins:
            activated = layers.Activation(activation, name=layer.name + ACTIVATION)
            twins[id(layer)] = _without(layer, activation="linear"), activated
        twin, activated = twins[id(layer)]
        return lambda x: activated(twin(x))

    simpler = rebuilt(model, stand_in)
    if scaling:
        reader = simpler.get_layer(kernel.name)
        reader.kernel.assign(reader.kernel * scale[:, None].astype("float32"))
    return simpler


def restored(simpler: keras.Model, model: keras.Model) -> keras.Model:
    """A copy of `model` with the weights of what `simplified` made of it, trained since."""
    scaling, kernel = _input_scaling(Graph.of(model))
    copy = copy_of(model)
    for _, layer in named_layers(copy):
        if layer.weights and not isinstance(layer, layers.Normalization):
            layer.set_weights(simpler.get_layer(layer.name).get_weights())
    if scaling:
        reader = next(layer for _, layer in named_layers(copy) if layer.name == kernel.name)
        scale, _ = _scale_and_offset(scaling)
        reader.kernel.assign(reader.kernel / scale[:, None].astype("float32"))
    return copy


def _without(layer: Any, **changes: Any) -> Any:
    """A copy of a layer, weights included, with some of its settings changed."""
    twin = type(layer).from_config({**layer.get_config(), **changes})
    twin.build(layer.get_build_config()["input_shape"])
    twin.set_weights(layer.get_weights()[: len(twin.weights)])
    return twin


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


def correct_biases(model: keras.Model, images: np.ndarray) -> None:
    """Make the biases of a model make up for what rounding its kernels to int8 adds on average.

    The error of a rounded kernel has a mean, as its inputs have one (after a swish nearly all are
    positive). It is taken off the bias, or the beta of the BatchNormalization that follows (Nagel
    et al. 2019, section 4.2, arXiv:1906.04721, measured on images as in their appendix D).

    Args:
        images: float32, (images, height, width, 3), from the training split.
    """
    graph = Graph.of(model)
    kernels = [use for use in graph.uses if isinstance(use.layer, HAS_KERNEL)]
    kernels = [use for use in kernels if graph.num_uses(use.layer) == 1]
    errors = {id(use.layer): _rounding_error(use.layer) for use in kernels}
    means: dict[int, Any] = {}

    def measured(layer: Any) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if id(layer) in errors:
                added = np.asarray(errors[id(layer)](args[0]), "float64")
                total = added.mean(axis=tuple(range(1, added.ndim - 1))).sum(axis=0)
                means[id(layer)] = means.get(id(layer), 0) + total / len(images)
            return layer(*args, **kwargs)

        return call

    for batch in batches(images):
        replay(model, tf.convert_to_tensor(batch), measured)
    for use in kernels:
        add_to_bias(graph, use, -means[id(use.layer)].astype("float32"))


def _rounding_error(layer: Any) -> Any:
    """The layer with the difference between its rounded kernel and its kernel, no bias."""
    error = _without(layer, use_bias=False, activation="linear")
    error.kernel.assign(rounded_kernel(layer, layer.kernel) - layer.kernel)
    return error


def rounded_kernel(layer: Any, kernel: Any) -> Any:
    """A kernel of `layer` as an int8 file holds it: 255 steps for each output channel."""
    ndim = len(kernel.shape)
    outputs = (2, 3) if isinstance(layer, layers.DepthwiseConv2D) else (ndim - 1,)
    axes = tuple(axis for axis in range(ndim) if axis not in outputs)
    largest = keras.ops.max(keras.ops.abs(kernel), axis=axes, keepdims=True)
    step = keras.ops.maximum(largest, 1e-12) / 127
    return keras.ops.round(kernel / step) * step


def add_to_bias(graph: Graph, use: Use, mean: np.ndarray) -> None:
    """Add to every output of a kernel, where it or the BatchNormalization behind has a bias.

    Args:
        mean: (channels,).
    """
    readers = graph.readers(use.output)
    norm = readers[0].layer if len(readers) == 1 else None
    if use.layer.use_bias:
        use.layer.bias.assign(use.layer.bias + mean)
    elif isinstance(norm, layers.BatchNormalization) and norm.center:
        factor = norm.gamma if norm.scale else 1.0
        deviation = np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        norm.beta.assign(norm.beta + mean * np.asarray(factor) / deviation)
