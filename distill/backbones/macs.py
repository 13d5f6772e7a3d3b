"""Multiply-accumulates (MACs) of a model: the one place that says what each layer costs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

Shape = Sequence[int | None]

CONVOLUTIONS = (
    layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.DepthwiseConv1D, layers.DepthwiseConv2D,
)  # fmt: skip
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
MULTIPLY_TENSORS = (layers.AdditiveAttention, layers.Attention, layers.Dot, layers.Lambda)
"""Layers that may multiply one tensor by another; nothing here counts that."""
ELEMENTWISE = (
    layers.BatchNormalization, layers.GroupNormalization, layers.LayerNormalization,
    layers.Normalization, layers.PReLU,
)  # fmt: skip
"""Layers whose weights of any rank act on one element each."""
MULTIPLYING_OPERATIONS = {
    "Conv", "ConvTranspose", "DepthwiseConv", "Dot", "DotProductAttention", "Einsum", "Inner",
    "Matmul", "Outer", "SeparableConv", "Tensordot", "Vdot", "Vecdot",
}  # fmt: skip
"""Functions of `keras.ops` that multiply tensors, by the names of their operations."""


def count_macs(model: keras.Model) -> int | None:
    """MACs of one image in the convolutions and dense layers of a model.

    Every call of a layer counts, in nested models too. Activations, normalization, pooling and
    element by element products count nothing, as in the tables of papers.

    Returns:
        None if the MACs of some layer are not known (attention, a recurrent or custom layer), or
        if the model has no graph or no fixed image size.
    """
    graph = _graph(model)
    if graph is None:
        return None
    counts: list[int | None] = []
    inputs = [keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in graph.inputs]
    _walk(graph, inputs, counts)
    return None if None in counts else sum(filter(None, counts))


def layer_macs(layer: Any, *, input_shape: Shape, output_shape: Shape) -> int | None:
    """MACs of one call of a layer for one image; None if they are not known.

    Args:
        layer: a Keras layer with its weights, or an operation of `keras.ops`.
        input_shape: of the tensor that it reads, batch included.
        output_shape: of the tensor that it writes, batch included.
    """
    if isinstance(layer, TRANSPOSED):
        # Every number of the kernel is used once at each place of the input.
        return _times(_places(layer, input_shape), layer.kernel)
    if isinstance(layer, SEPARABLE):
        places = _places(layer, output_shape)
        return _times(places, layer.depthwise_kernel, layer.pointwise_kernel)
    if isinstance(layer, (*CONVOLUTIONS, layers.Dense)):
        # Every number of the kernel is used once at each place of the output, with groups too.
        return _times(_places(layer, output_shape), layer.kernel)
    return 0 if _multiplies_nothing(layer) else None


def _graph(model: keras.Model) -> Any:
    """The functional graph of a model, or None."""
    graph = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    return graph if hasattr(graph, "_run_through_graph") else None


def _walk(graph: Any, inputs: Any, counts: list[int | None]) -> Any:
    """Append the MACs of every call to `counts`; returns the output tensors."""

    def counted(layer: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if isinstance(layer, keras.Model) and (nested := _graph(layer)) is not None:
                return _walk(nested, args[0], counts)
            output = layer.compute_output_spec(*args, **kwargs)
            read, written = (_first_shape(value) for value in ((args, kwargs), output))
            counts.append(layer_macs(layer, input_shape=read, output_shape=written))
            return output

        return call

    return graph._run_through_graph(inputs, operation_fn=counted)


def _first_shape(value: Any) -> Shape:
    tensors = [item for item in keras.tree.flatten(value) if isinstance(item, keras.KerasTensor)]
    return tensors[0].shape if tensors else ()


def _places(layer: Any, shape: Shape) -> int | None:
    """How many places a tensor has, over all its dimensions but the batch and the channels."""
    channels_first = getattr(layer, "data_format", "channels_last") == "channels_first"
    sizes = shape[2:] if channels_first else shape[1:-1]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def _times(places: int | None, *kernels: Any) -> int | None:
    return None if places is None else places * sum(math.prod(kernel.shape) for kernel in kernels)


def _multiplies_nothing(layer: Any) -> bool:
    """Whether a layer of Keras, or an operation, only works element by element."""
    if not type(layer).__module__.startswith("keras."):
        return False
    if not isinstance(layer, keras.Layer):
        return type(layer).__name__ not in MULTIPLYING_OPERATIONS
    if isinstance(layer, ELEMENTWISE):
        return True
    has_kernel = any(len(weight.shape) > 1 for weight in layer.weights)
    return not has_kernel and not isinstance(layer, (*MULTIPLY_TENSORS, keras.Model))
