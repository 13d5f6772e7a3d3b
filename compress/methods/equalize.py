"""Exact equalisation: channels of like range, so that one int8 scale serves all of them.

A tensor of activations has one scale in int8. Where one channel of EfficientNet reaches 50 times
as far as another, the other is left with a handful of values, and a depthwise convolution cannot
average that error away.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, NamedTuple

import keras
import numpy as np
from keras import layers
from pydantic import Field

from compress.graph import Graph, Use, batches, rebuilt
from compress.methods import METHODS
from compress.sensitivity import NUM_GRADIENT_IMAGES, sensitivities
from configs.errors import UserError

log = logging.getLogger("potstill")

SMALLEST_RANGE = 1 / 64
"""Of the largest channel's: a channel that is hardly used must not blow up what it is used for."""
SWISH_IS_ZERO_BELOW = -8.0
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
    gain: Annotated[float, Field(gt=0, le=1)] = 0.9,
    num_images: Annotated[int, Field(gt=0)] = 64,
) -> keras.Model:
    """A model that computes the same, with channels of like range around the swishes that need it.

    For a swish y = x * sigmoid(x) behind a BatchNormalization: divide the gamma and beta of every
    channel by its s, compute x' * sigmoid(s * x'), which is y / s, and multiply the kernels that
    read y by s. s is the largest |x| of the channel over the calibration images (below -8 a swish
    is 0), divided by the geometric mean of all channels. As cross-layer equalization (Nagel et al.
    2019, section 4.1, arXiv:1906.04721), whose rule for ReLU does not hold for a swish: its gate
    has to see the x of before. That costs one multiplication of a tensor by a constant, so only
    the swishes are rewritten whose rounding costs the answers most (`compress/sensitivity.py`).

    Args:
        calibration: images of the training split, through the evaluation view.
        gain: rewrite the fewest swishes that bring this share of what all of them would.
        num_images: how many images ranges are taken from, and sensitivities at most.

    Raises:
        UserError: the model has no swish that can be rewritten.
    """
    images = list(islice(calibration(), num_images))
    if not images:
        raise UserError("equalize needs calibration photos and got none.")
    graph = Graph.of(model)
    swishes = rewritable(graph)
    if name := graph.shared_name():
        raise UserError(
            f"model {model.name!r} cannot be equalized: several of its layers are called {name!r} "
            "(in nested models). Give them names of their own, or leave the method out."
        )
    if not swishes:
        raise UserError(
            f"model {model.name!r} has nothing to equalize: no swish that follows a "
            "BatchNormalization and feeds convolutions. Leave the method out."
        )
    some = np.stack(images).astype("float32")
    scales = [_scale(each) for each in _ranges(graph, swishes, some)]
    gains = _gains(model, swishes, scales, some)
    chosen = _fewest(np.array(gains), gain)
    log.info(
        "equalized %d of %d swishes: %s", len(chosen), len(swishes),
        ", ".join(f"{swishes[i].activation.name} ({gains[i]:.2g} nats)" for i in chosen),
    )  # fmt: skip
    return _rewritten(model, [(swishes[i], scales[i]) for i in chosen])


class Swish(NamedTuple):
    """A swish, the layer that feeds it and the layers whose kernels read it."""

    activation: Any
    norm: Any
    kernels: list[Any]
    carriers: list[Any]
    """Layers between it and the kernels."""
    tensor: Any
    """The swish's input."""


def rewritable(graph: Graph) -> list[Swish]:
    """The swishes whose scale can be moved, in the order of the graph."""
    if graph.shared_name():
        return []
    return [swish for use in graph.uses if (swish := _rewritable(graph, use))]


def _rewritable(graph: Graph, use: Use) -> Swish | None:
    if not _is_swish(use.layer) or graph.num_uses(use.layer) != 1:
        return None
    (tensor,) = use.inputs
    before = next((u for u in graph.uses if u.output is tensor), None)
    if before is None or not _is_scaled_norm(before.layer) or len(graph.readers(tensor)) != 1:
        return None
    carriers: list[Any] = []
    kernels = _kernels_after(graph, use.output, carriers)
    layers_moved = [before.layer, *(kernels or [])]
    if not kernels or any(graph.num_uses(layer) != 1 for layer in layers_moved):
        return None
    return Swish(use.layer, before.layer, kernels, carriers, tensor)


def _kernels_after(graph: Graph, tensor: Any, carriers: list[Any]) -> list[Any] | None:
    """Layers whose kernels read a tensor channel by channel; None if anything else does."""
    readers = graph.readers(tensor)
    if tensor is graph.output or not readers:
        return None
    found = []
    for use in readers:
        if _has_kernel_by_channel(use.layer):
            found.append(use.layer)
            continue
        if isinstance(use.layer, layers.Multiply):
            # Both factors with a scale: it would have to be undone twice.
            if any(use.layer is other for other in carriers) or len(use.inputs) != 2:
                return None
        elif not (isinstance(use.layer, KEEPS_CHANNELS) or _is_reshape_of_channels(use)):
            return None
        carriers.append(use.layer)
        further = _kernels_after(graph, use.output, carriers)
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


def _is_reshape_of_channels(use: Use) -> bool:
    """(batch, channels) to (batch, 1, 1, channels), or back."""
    if not isinstance(use.layer, layers.Reshape | layers.Flatten):
        return False
    channels = use.output.shape[-1]
    return use.inputs[0].shape[-1] == channels and all(
        set(tensor.shape[1:-1]) <= {1} for tensor in (use.inputs[0], use.output)
    )


def _ranges(graph: Graph, swishes: list[Swish], images: np.ndarray) -> list[np.ndarray]:
    """The largest |x| of every channel, (channels,), for each swish."""
    seen = keras.Model(graph.inputs, [swish.tensor for swish in swishes])
    largest = [np.zeros(swish.tensor.shape[-1]) for swish in swishes]
    for batch in batches(images):
        outputs = keras.tree.flatten(seen.predict_on_batch(batch))
        for i, values in enumerate(outputs):
            kept = np.abs(np.maximum(values, SWISH_IS_ZERO_BELOW))
            largest[i] = np.maximum(largest[i], kept.max(axis=tuple(range(np.ndim(values) - 1))))
    return largest


def _scale(largest: np.ndarray) -> np.ndarray:
    """s of every channel; all of them multiply to 1."""
    ranges = np.maximum(largest, max(SMALLEST_RANGE * float(largest.max()), 1e-6))
    return np.exp(np.log(ranges) - np.log(ranges).mean())


def _gains(
    model: keras.Model, swishes: list[Swish], scales: list[np.ndarray], images: np.ndarray
) -> list[float]:
    """Nats that each rewrite saves the answers."""
    old, new = [], []
    for swish in swishes:
        passed = [swish.norm.name, *(layer.name for layer in swish.carriers)]
        name = swish.activation.name
        old.append([*passed, name])
        new.append([*passed, f"{name}_product", f"{name}_scale"])
    before = _costs(model, images, old)
    after = _costs(_rewritten(model, zip(swishes, scales, strict=True)), images, new)
    return [one - other for one, other in zip(before, after, strict=True)]


def _costs(model: keras.Model, images: np.ndarray, tensors: list[list[str]]) -> list[float]:
    """Nats that rounding some tensors together costs, for each list of them."""
    some = images[:NUM_GRADIENT_IMAGES]
    known = sensitivities(model, some, only={name for names in tensors for name in names})
    return [sum(known[name].cost for name in names if name in known) for names in tensors]


def _fewest(gains: np.ndarray, share: float) -> list[int]:
    """The fewest indices that have `share` of all positive gains, the largest first."""
    order = [int(i) for i in np.argsort(-gains, kind="stable") if gains[i] > 0]
    if not order:
        return []
    reached = np.cumsum(gains[order])
    return order[: int(np.searchsorted(reached, share * reached[-1])) + 1]


def _rewritten(model: keras.Model, chosen: Iterable[tuple[Swish, np.ndarray]]) -> keras.Model:
    """The model with x * sigmoid(s * x) for some of its swishes, each with its s."""
    moved = list(chosen)
    scales = {id(swish.activation): scale for swish, scale in moved}

    def stand_in(layer: Any) -> Callable:
        scale = scales.get(id(layer))
        if scale is None:
            return layer

        def gated(x: Any) -> Any:
            scaled = layers.Rescaling(scale.tolist(), name=f"{layer.name}_scale")(x)
            gate = layers.Activation("sigmoid", name=f"{layer.name}_gate")(scaled)
            return layers.Multiply(name=f"{layer.name}_product")([x, gate])

        return gated

    found = rebuilt(model, stand_in)
    for swish, scale in moved:
        _move_scale(found, swish, scale)
    return found


def _move_scale(model: keras.Model, swish: Swish, scale: np.ndarray) -> None:
    """Divide what the normalization gives by s, and multiply the kernels that read it."""
    norm = model.get_layer(swish.norm.name)
    norm.gamma.assign(norm.gamma / scale)
    norm.beta.assign(norm.beta / scale)
    for name in [layer.name for layer in swish.kernels]:
        layer = model.get_layer(name)
        # (height, width, in, out), depthwise (height, width, in, multiplier), or (in, out).
        layer.kernel.assign(layer.kernel * scale[:, None].astype("float32"))
