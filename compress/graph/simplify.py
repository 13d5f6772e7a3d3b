"""Exact rewrites of a model that leave fewer tensors for int8 to round."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from compress.graph.kernels import by_output, has_kernel, is_channels_last
from compress.graph.layer_graph import LayerGraph
from compress.graph.preprocessing import (
    Offset,
    find_preprocessing,
    move_into_kernel,
    norm_factor_and_term,
)
from compress.graph.replay import copy_layer, copy_model, rebuild_model

ACTIVATION = ".activation"
"""The end of the name of an activation layer that was an argument of another layer."""


def simplify(model: keras.Model) -> keras.Model:
    """The same model with fewer tensors to round; its answers do not change.

    - Preprocessing moves into the first kernels and their biases. Scale, mean and deviation would
      be rounded one after the other. Before zero padding, a whole number of grey levels is still
      subtracted from the pixels, which is exact in int8. There alone the answers may change: the
      border counts as pixels of this whole number, at most half a grey level beside the mean.
    - Every BatchNormalization moves into the kernel before it, as converters do.
    - Every activation becomes a layer. Files round the input of an activation too, and as a layer
      it has a name.

    A model with several layers of one name is copied as it is.
    """
    graph = LayerGraph.of(model)
    if graph.shared_name():
        return copy_model(model)
    preprocessing = find_preprocessing(graph)
    norms = _norms_after_kernels(graph)
    removed = [*preprocessing.layers, *(norm for _, norm in norms.values())]
    split_layers: dict[int, tuple[Any, Any]] = {}

    def stand_in(layer: Any) -> Callable:
        if layer in preprocessing.layers[:1] and preprocessing.offset.any():
            return Offset(preprocessing.offset.tolist(), name="input_offset")
        if any(layer is other for other in removed):
            return lambda x, **_: x
        if id(layer) in norms:
            return _merge_norm(*norms[id(layer)])
        activation = getattr(layer, "activation", None)
        if not has_kernel(layer) or activation in (None, keras.activations.linear):
            return _with_bias(layer) if preprocessing.needs_bias(layer) else layer
        if id(layer) not in split_layers:
            activated = layers.Activation(activation, name=layer.name + ACTIVATION)
            biased = _with_bias(layer) if preprocessing.needs_bias(layer) else layer
            split_layers[id(layer)] = copy_layer(biased, activation="linear"), activated
        linear, activated = split_layers[id(layer)]
        return lambda x: activated(linear(x))

    simpler = rebuild_model(model, stand_in)
    for reader in preprocessing.readers:
        move_into_kernel(simpler.get_layer(reader.name), preprocessing)
    return simpler


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
    merged = _with_bias(layer)
    factor, offset = norm_factor_and_term(norm)
    kernel = np.asarray(layer.kernel) * by_output(layer, factor)
    merged.kernel.assign(kernel.astype("float32"))
    merged.bias.assign((np.asarray(layer.bias) if layer.use_bias else 0) * factor + offset)
    return merged


def _with_bias(layer: Any) -> Any:
    """A copy of a layer with a kernel that has a bias in any case."""
    copy = type(layer).from_config({**layer.get_config(), "use_bias": True})
    copy.build(layer.get_build_config()["input_shape"])
    copy.kernel.assign(layer.kernel)
    copy.bias.assign(layer.bias if layer.use_bias else np.zeros(copy.bias.shape))
    return copy
