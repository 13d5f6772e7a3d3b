"""Exact rewrites of a model that leave fewer tensors for int8 to round."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from compress.graph.kernels import (
    by_input,
    by_output,
    has_kernel,
    is_channels_last,
    weighs_each_input,
)
from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import copy_layer, copy_model, rebuild_model

ACTIVATION = ".activation"
"""The end of the name of an activation layer that was an argument of another layer."""


class Offset(keras.Layer):
    """x + offset. A Rescaling with a scale of 1 would give converters a multiplication to round."""

    def __init__(self, offset: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offset = offset

    def call(self, x: Any) -> Any:
        # A whole row of the image: runtimes add three numbers over and over slowly.
        row = np.tile(self.offset, (1, x.shape[-2], 1))
        return x + keras.ops.convert_to_tensor(row, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "offset": self.offset}


def simplify(model: keras.Model) -> keras.Model:
    """The same model with fewer tensors to round; its answers do not change.

    - Preprocessing moves into the first kernel. Scale, mean and deviation would be rounded one
      after the other; one subtraction of pixels is exact in int8. It stays before zero padding.
    - Every BatchNormalization moves into the kernel before it, as converters do.
    - Every activation becomes a layer. Files round the input of an activation too, and as a layer
      it has a name.

    A model with several layers of one name is copied as it is.
    """
    graph = LayerGraph.of(model)
    if graph.shared_name():
        return copy_model(model)
    preprocessing = _find_preprocessing(graph)
    scale, offset = _scale_and_offset(preprocessing.layers)
    norms = _norms_after_kernels(graph)
    removed = [*preprocessing.layers, *(norm for _, norm in norms.values())]
    split_layers: dict[int, tuple[Any, Any]] = {}

    def stand_in(layer: Any) -> Callable:
        if preprocessing.layers and layer is preprocessing.layers[0] and offset.any():
            return Offset((offset / scale).tolist(), name="input_offset")
        if any(layer is other for other in removed):
            return lambda x, **_: x
        if id(layer) in norms:
            return _merge_norm(*norms[id(layer)])
        activation = getattr(layer, "activation", None)
        if not has_kernel(layer) or activation in (None, keras.activations.linear):
            return layer
        if id(layer) not in split_layers:
            activated = layers.Activation(activation, name=layer.name + ACTIVATION)
            split_layers[id(layer)] = copy_layer(layer, activation="linear"), activated
        linear, activated = split_layers[id(layer)]
        return lambda x: activated(linear(x))

    simpler = rebuild_model(model, stand_in)
    if preprocessing.layers:
        first = simpler.get_layer(preprocessing.reader.name)
        first.kernel.assign(first.kernel * by_input(scale).astype("float32"))
    return simpler


class _Preprocessing(NamedTuple):
    """The layers that scale the pixels, and the layer whose kernel reads what they return."""

    layers: list[Any]
    reader: Any


def _find_preprocessing(graph: LayerGraph) -> _Preprocessing:
    """No layers if something else than one kernel reads the scaled pixels."""
    tensor, scaling, is_padded = graph.inputs, [], False
    while len(readers := graph.readers(tensor)) == 1:
        call = readers[0]
        if graph.num_calls(call.layer) != 1:
            break
        if isinstance(call.layer, layers.Rescaling | layers.Normalization) and not is_padded:
            scaling.append(call.layer)
        elif isinstance(call.layer, layers.ZeroPadding2D):
            is_padded = True
        elif _is_convolution(call.layer) and weighs_each_input(call.layer):
            return _Preprocessing(scaling, call.layer)
        else:
            break
        tensor = call.output
    return _Preprocessing([], None)


def _is_convolution(layer: Any) -> bool:
    return isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D)


def _scale_and_offset(scaling: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """What all the layers together do to a pixel: times (3,), plus (3,)."""
    scale, offset = np.ones(3), np.zeros(3)
    for layer in scaling:
        factor, term = _factor_and_term(layer)
        scale, offset = scale * factor, offset * factor + term
    return scale, offset


def _factor_and_term(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(layer, layers.Rescaling):
        return np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    mean, variance = np.ravel(layer.mean), np.ravel(layer.variance)
    # The layer divides in this way.
    factor = 1 / np.maximum(np.sqrt(variance.astype("float64")), keras.config.epsilon())
    if layer.invert:
        return 1 / factor, mean
    return factor, -mean * factor


def _norms_after_kernels(graph: LayerGraph) -> dict[int, tuple[Any, Any]]:
    """(layer, BatchNormalization) by the id of the layer, if only the norm reads the layer.

    Converters merge the two, so no file rounds the tensor between them.
    """
    norms = {}
    for call in graph.calls:
        readers = graph.readers(call.output)
        if len(readers) != 1 or not has_kernel(call.layer):
            continue
        layer, norm = call.layer, readers[0].layer
        if (
            isinstance(norm, layers.BatchNormalization)
            and layer.activation is keras.activations.linear
            and is_channels_last(layer)
            and norm.axis in (-1, len(call.output.shape) - 1)
            and graph.num_calls(layer) == graph.num_calls(norm) == 1
        ):
            norms[id(layer)] = layer, norm
    return norms


def _merge_norm(layer: Any, norm: Any) -> Any:
    """A layer that does what a layer with a kernel and a BatchNormalization do together."""
    merged = type(layer).from_config({**layer.get_config(), "use_bias": True})
    merged.build(layer.get_build_config()["input_shape"])
    factor = 1 / np.sqrt(np.asarray(norm.moving_variance, "float64") + norm.epsilon)
    factor *= np.asarray(norm.gamma) if norm.scale else 1.0
    offset = -np.asarray(norm.moving_mean) * factor + (np.asarray(norm.beta) if norm.center else 0)
    kernel = np.asarray(layer.kernel) * by_output(layer, factor)
    merged.kernel.assign(kernel.astype("float32"))
    merged.bias.assign((np.asarray(layer.bias) if layer.use_bias else 0) * factor + offset)
    return merged
