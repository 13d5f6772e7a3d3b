"""Exact equalisation: channels of like range, so that one int8 scale serves all of them.

A tensor of activations has one scale in int8. Where one channel of EfficientNet reaches 50 times
as far as another, the other is left with a handful of values, and a depthwise convolution cannot
average that error away.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, NamedTuple

import keras
import numpy as np
from keras import layers
from pydantic import Field

from compress.graph import copy_of, image_size_of, replay
from compress.methods import METHODS
from configs.errors import UserError

log = logging.getLogger("potstill")

BATCH_SIZE = 16
SMALLEST_RANGE = 1 / 64
"""Of the largest channel's: a channel that is hardly used must not blow up what it is used for."""
# One value in, the same value out, or a mean of values of one channel.
KEEPS_CHANNELS = (
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.ZeroPadding2D,
    layers.GlobalAveragePooling2D,
    layers.AveragePooling2D,
)


@METHODS.add
def equalize(
    model: keras.Model,
    *,
    calibration: Callable[[], Iterator[np.ndarray]],
    share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    num_images: Annotated[int, Field(gt=0)] = 100,
) -> keras.Model:
    """A model that computes the same, with channels of like range around its swishes.

    For a swish y = x * sigmoid(x) behind a BatchNormalization: divide the gamma and beta of every
    channel by its s, compute x' * sigmoid(s * x'), which is y / s, and multiply the kernels that
    read y by s. s is the largest |x| of the channel over the calibration images, divided by the
    geometric mean of all channels. As cross-layer equalization (Nagel et al. 2019, section 4.1,
    arXiv:1906.04721), whose rule for ReLU does not hold for a swish: its gate has to see the x of
    before. That costs one multiplication of a tensor by a constant.

    Args:
        calibration: images of the training split, through the evaluation view.
        share: of the swishes that can be rewritten, those whose channels differ most.
        num_images: how many images the ranges are taken from.

    Raises:
        UserError: the model has no swish that can be rewritten.
    """
    copy = copy_of(model)
    graph = _Graph.of(copy)
    swishes = [swish for use in graph.uses if (swish := graph.rewritable(use))]
    if not swishes:
        raise UserError(
            f"model {model.name!r} has nothing to equalize: no swish that follows a "
            "BatchNormalization and feeds convolutions. Leave the method out."
        )
    ranges = _ranges(graph, swishes, calibration, num_images)
    scales = [_scale(each) for each in ranges]
    order = sorted(range(len(swishes)), key=lambda i: -float(scales[i].max()))
    chosen = order[: max(round(share * len(swishes)), 1)]
    for i in chosen:
        _move_scale(swishes[i], scales[i])
    log.info("equalized %d of %d swishes", len(chosen), len(swishes))
    return _rebuilt(copy, {id(swishes[i].activation): scales[i] for i in chosen})


class _Use(NamedTuple):
    """One call of a layer."""

    layer: Any
    inputs: list[Any]
    output: Any


class _Swish(NamedTuple):
    """A swish, the layer that feeds it and the layers whose kernels read it."""

    activation: Any
    norm: Any
    kernels: list[Any]
    tensor: Any
    """The swish's input."""


@dataclass
class _Graph:
    """A model as a flat list of calls, in their order."""

    inputs: Any
    output: Any
    uses: list[_Use]

    @classmethod
    def of(cls, model: keras.Model) -> "_Graph":
        uses: list[_Use] = []

        def noted(layer: Any) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                output = layer(*args, **kwargs)
                uses.append(_Use(layer, keras.tree.flatten((args, kwargs)), output))
                return output

            return call

        inputs = keras.Input((*image_size_of(model), 3))
        return cls(inputs, replay(model, inputs, noted), uses)

    def readers(self, tensor: Any) -> list[_Use]:
        return [use for use in self.uses if any(given is tensor for given in use.inputs)]

    def num_uses(self, layer: Any) -> int:
        return sum(use.layer is layer for use in self.uses)

    def rewritable(self, use: _Use) -> _Swish | None:
        """The swish of a call, if its scale can be moved."""
        if not _is_swish(use.layer) or self.num_uses(use.layer) != 1:
            return None
        (tensor,) = use.inputs
        before = next((u for u in self.uses if u.output is tensor), None)
        if before is None or not _is_scaled_norm(before.layer) or len(self.readers(tensor)) != 1:
            return None
        kernels = self.kernels_after(use.output)
        layers_moved = [before.layer, *(kernels or [])]
        if not kernels or any(self.num_uses(layer) != 1 for layer in layers_moved):
            return None
        return _Swish(use.layer, before.layer, kernels, tensor)

    def kernels_after(self, tensor: Any, products: list[Any] | None = None) -> list[Any] | None:
        """Layers whose kernels read a tensor channel by channel; None if anything else does."""
        products = [] if products is None else products
        readers = self.readers(tensor)
        if tensor is self.output or not readers:
            return None
        found = []
        for use in readers:
            if _has_kernel_by_channel(use.layer):
                found.append(use.layer)
                continue
            if isinstance(use.layer, layers.Multiply):
                # Both factors with a scale: it would have to be undone twice.
                if any(use.layer is other for other in products) or len(use.inputs) != 2:
                    return None
                products.append(use.layer)
            elif not (isinstance(use.layer, KEEPS_CHANNELS) or _is_reshape_of_channels(use)):
                return None
            further = self.kernels_after(use.output, products)
            if further is None:
                return None
            found += further
        return found


def _is_swish(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return isinstance(layer, layers.Activation) and activation is keras.activations.silu


def _is_scaled_norm(layer: Any) -> bool:
    return isinstance(layer, layers.BatchNormalization) and layer.scale and layer.center


def _has_kernel_by_channel(layer: Any) -> bool:
    if isinstance(layer, layers.DepthwiseConv2D):
        return layer.data_format == "channels_last"
    if isinstance(layer, layers.Conv2D):
        return layer.groups == 1 and layer.data_format == "channels_last"
    return isinstance(layer, layers.Dense)


def _is_reshape_of_channels(use: _Use) -> bool:
    """(batch, channels) to (batch, 1, 1, channels), or back."""
    if not isinstance(use.layer, layers.Reshape | layers.Flatten):
        return False
    channels = use.output.shape[-1]
    return use.inputs[0].shape[-1] == channels and all(
        set(tensor.shape[1:-1]) <= {1} for tensor in (use.inputs[0], use.output)
    )


def _ranges(
    graph: _Graph,
    swishes: list[_Swish],
    calibration: Callable[[], Iterator[np.ndarray]],
    num_images: int,
) -> list[np.ndarray]:
    """The largest |x| of every channel, (channels,), for each swish."""
    seen = keras.Model(graph.inputs, [swish.tensor for swish in swishes])
    largest = [np.zeros(swish.tensor.shape[-1]) for swish in swishes]
    images = islice(calibration(), num_images)
    num_seen = 0
    while batch := list(islice(images, BATCH_SIZE)):
        num_seen += len(batch)
        outputs = seen.predict_on_batch(np.stack(batch))
        for i, values in enumerate(outputs if len(swishes) > 1 else keras.tree.flatten(outputs)):
            axes = tuple(range(np.ndim(values) - 1))
            largest[i] = np.maximum(largest[i], np.abs(values).max(axis=axes))
    if not num_seen:
        raise UserError("equalize needs calibration photos and got none.")
    return largest


def _scale(largest: np.ndarray) -> np.ndarray:
    """s of every channel; all of them multiply to 1."""
    ranges = np.maximum(largest, max(SMALLEST_RANGE * float(largest.max()), 1e-6))
    return np.exp(np.log(ranges) - np.log(ranges).mean())


def _move_scale(swish: _Swish, scale: np.ndarray) -> None:
    """Divide what the normalization gives by s, and multiply the kernels that read it."""
    norm = swish.norm
    norm.gamma.assign(norm.gamma / scale)
    norm.beta.assign(norm.beta / scale)
    for layer in swish.kernels:
        # (height, width, in, out), depthwise (height, width, in, multiplier), or (in, out).
        layer.kernel.assign(layer.kernel * scale[:, None].astype("float32"))


def _rebuilt(model: keras.Model, scales: dict[int, np.ndarray]) -> keras.Model:
    """The model with x * sigmoid(s * x) for the swishes that have an s."""

    def stand_in(layer: Any) -> Callable:
        scale = scales.get(id(layer))
        if scale is None:
            return layer

        def swish(x: Any) -> Any:
            scaled = layers.Rescaling(scale.tolist(), name=f"{layer.name}_scale")(x)
            gate = layers.Activation("sigmoid", name=f"{layer.name}_gate")(scaled)
            return layers.Multiply(name=f"{layer.name}_product")([x, gate])

        return swish

    inputs = keras.Input((*image_size_of(model), 3), name=model.inputs[0].name)
    rebuilt = keras.Model(inputs, replay(model, inputs, stand_in), name=model.name)
    return copy_of(rebuilt)  # its layers know of one call each, and of no other model
