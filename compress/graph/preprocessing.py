"""Layers at the start of a model that scale the pixels, moved into the kernels that read them."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from compress.graph.kernels import by_input, is_depthwise, weighs_each_input
from compress.graph.layer_graph import LayerCall, LayerGraph

CHANGES_NOTHING = (layers.Dropout, layers.SpatialDropout2D, layers.Identity)
"""Layers that return in inference what they read."""
ONE_OFFSET = 0.5
"""Offsets of channels that differ by less, in grey levels, share one whole number."""


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


class Preprocessing(NamedTuple):
    """What the first layers do to the pixels, and where it moves.

    Attributes:
        layers: the layers that scale the pixels; none if something else than kernels reads them.
        readers: the layers whose kernels read the scaled pixels.
        scale: factor of each channel, which moves into the kernels.
        offset: what an `Offset` adds to the pixels in place of the layers.
        in_bias: what the biases add to the pixels beside it.
    """

    layers: list[Any]
    readers: list[Any]
    scale: np.ndarray
    offset: np.ndarray
    in_bias: np.ndarray

    def needs_bias(self, layer: Any) -> bool:
        """Whether a layer has to get a bias that it lacks."""
        is_reader = any(layer is reader for reader in self.readers)
        return is_reader and bool(self.in_bias.any()) and not layer.use_bias


def find_preprocessing(graph: LayerGraph) -> Preprocessing:
    """The layers that scale the pixels, and where the scale and the offset move.

    Zeros that pad the scaled pixels are no black pixels. So an offset that stands before padding
    stays an addition. In steps of 1 it is exact if it is a whole number. Half a grey level would
    put every pixel half-way between two steps of int8, so the fraction moves into the bias.
    """
    num_channels = graph.inputs.shape[-1]
    none = Preprocessing([], [], np.ones(num_channels), *np.zeros((2, num_channels)))
    scaling, pixels = _scaling_layers(graph, num_channels)
    readers = _kernels_behind(graph, pixels, padded=False)
    if not scaling or not readers:
        return none
    scale, offset = np.ones(num_channels), np.zeros(num_channels)
    for layer in scaling:
        factor, term = _factor_and_term(layer)
        scale, offset = scale * factor, offset * factor + term
    if not scale.all():
        return none
    shift = offset / scale  # in grey levels
    added = _whole(shift) if any(readers.values()) else np.zeros(num_channels)
    return Preprocessing(scaling, list(readers), scale, added, shift - added)


def _whole(shift: np.ndarray) -> np.ndarray:
    """One whole number for all channels, if they have about one offset."""
    if np.ptp(shift) > ONE_OFFSET:
        return shift  # more than 255 steps: no choice makes all pixels exact
    if np.abs(shift).max() < 1:
        return shift  # it may be half of the range, if the pixels are in 0..1
    whole = np.full_like(shift, np.round(np.round(shift.mean(), 3)))
    return shift if np.allclose(shift, whole, rtol=0, atol=1e-3) else whole


def _scaling_layers(graph: LayerGraph, num_channels: int) -> tuple[list[Any], Any]:
    """The first layers that scale the pixels of each channel, and the tensor behind them."""
    tensor, scaling = graph.inputs, []
    while len(readers := graph.readers(tensor)) == 1:
        (call,) = readers
        if graph.num_calls(call.layer) != 1:
            break
        if _scales_channels(call, num_channels):
            scaling.append(call.layer)
        elif not isinstance(call.layer, CHANGES_NOTHING):
            break
        tensor = call.output
    return scaling, tensor


def _scales_channels(call: LayerCall, num_channels: int) -> bool:
    layer = call.layer
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, len(call.output.shape) - 1)
    if not isinstance(layer, layers.Rescaling | layers.Normalization):
        return False
    return all(np.size(values) in (1, num_channels) for values in _factor_and_term(layer))


def _factor_and_term(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a layer does to a pixel: times the one, plus the other."""
    if isinstance(layer, layers.Rescaling):
        scale, offset = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
        return scale.ravel(), offset.ravel()
    if isinstance(layer, layers.BatchNormalization):
        return norm_factor_and_term(layer)
    mean, variance = np.ravel(layer.mean), np.ravel(layer.variance)
    # The layer divides in this way.
    factor = 1 / np.maximum(np.sqrt(variance.astype("float64")), keras.config.epsilon())
    if layer.invert:
        return 1 / factor, mean
    return factor, -mean * factor


def norm_factor_and_term(norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a BatchNormalization does in inference: times the one, plus the other."""
    factor = 1 / np.sqrt(np.asarray(norm.moving_variance, "float64") + norm.epsilon)
    factor *= np.asarray(norm.gamma) if norm.scale else 1.0
    term = -np.asarray(norm.moving_mean) * factor + (np.asarray(norm.beta) if norm.center else 0)
    return factor, term


def _kernels_behind(graph: LayerGraph, tensor: Any, *, padded: bool) -> dict[Any, bool]:
    """The layers whose kernels read a tensor, and whether they read zeros beside it.

    Empty if anything else reads it.
    """
    kernels: dict[Any, bool] = {}
    for call in graph.readers(tensor):
        if graph.num_calls(call.layer) != 1:
            return {}
        if weighs_each_input(call.layer):
            kernels[call.layer] = padded or _pads(call)
            continue
        is_padding = isinstance(call.layer, layers.ZeroPadding2D)
        if not (is_padding or isinstance(call.layer, (*CHANGES_NOTHING, layers.Flatten))):
            return {}
        behind = _kernels_behind(graph, call.output, padded=padded or is_padding)
        if not behind:
            return {}
        kernels |= behind
    return kernels


def _pads(call: LayerCall) -> bool:
    """Whether a layer with a kernel reads zeros beside its input."""
    layer = call.layer
    if getattr(layer, "padding", "valid") == "valid":
        return False
    sides = zip(
        call.inputs[0].shape[1:3],
        layer.kernel_size,
        layer.strides,
        layer.dilation_rate,
        strict=True,
    )
    return any(
        (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 > size
        for size, kernel, stride, dilation in sides
    )


def move_into_kernel(layer: Any, preprocessing: Preprocessing) -> None:
    """Have a kernel and its bias do what the removed layers did to the pixels."""
    # Behind a Flatten the channels repeat.
    repeats = layer.kernel.shape[-2] // len(preprocessing.scale)
    scale = by_input(np.tile(preprocessing.scale, repeats))
    layer.kernel.assign(layer.kernel * scale.astype("float32"))
    if not preprocessing.in_bias.any():
        return
    in_bias = by_input(np.tile(preprocessing.in_bias, repeats))
    added = np.asarray(layer.kernel, "float64") * in_bias
    by_channel = added.sum(axis=tuple(range(added.ndim - 2)))
    by_channel = by_channel.ravel() if is_depthwise(layer) else by_channel.sum(axis=0)
    layer.bias.assign(layer.bias + by_channel.astype("float32"))
