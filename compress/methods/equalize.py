"""Exact equalisation: channels of like range, so that one int8 scale serves all of them.

A tensor of activations has one scale in int8. Where one channel of EfficientNet reaches 50 times
as far as another, the other is left with a handful of values, and a depthwise convolution cannot
average that error away.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import keras
import numpy as np
from pydantic import Field

from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import rebuild_model, small_batches
from compress.int8.calibration import calibration_images
from compress.int8.equalization import Span, divide_outputs, find_spans, multiply_inputs
from compress.int8.equalization_rules import Rule
from compress.int8.sensitivity import NUM_GRADIENT_IMAGES, measure_sensitivities
from compress.methods import METHODS
from configs.errors import UserError

log = logging.getLogger("potstill")

SMALLEST_RANGE = 1 / 64
"""Of the largest channel's: a channel that is hardly used must not blow up what it is used for."""
WORTH = 1e-4
"""Nats that an additional operation must save: ReLU6s that promised less each made a file worse."""
NOTICED = 1e-6
"""Nats that a rewrite without one must save. Less is chance."""


@METHODS.add(needs=("calibration",))
def equalize(
    model: keras.Model,
    *,
    calibration: Callable[[], Iterator[np.ndarray]],
    gain: Annotated[float, Field(gt=0, le=1)] = 0.9,
    num_images: Annotated[int, Field(gt=0)] = 64,
) -> keras.Model:
    """A model that computes the same, with channels of like range where rounding them costs most.

    Every channel is divided by its s in the weights of the layer that gives it, and the kernels
    that read it are multiplied by s (cross-layer equalization, Nagel et al. 2019, section 4.1,
    arXiv:1906.04721), through padding, pooling, squeeze-and-excitation and residual sums. s is the
    largest value of the channel over the calibration images, divided by the geometric mean of all
    channels. What lies between decides what that costs, with x' = x / s:

    - nothing, a ReLU or a leaky one lets positive factors through, so it costs nothing.
    - a swish becomes x' * sigmoid(s * x'), for its gate has to see the x of before, and a
      hard-swish x' * relu6(s * x' + 3) / 6: one and two operations more. s looks at x above -8 and
      above -3 only, for they are 0 below.
    - a ReLU6 becomes min(relu(x'), 6 / s), one operation more. A channel that no calibration image
      takes to 6 is cut off, too, for another image may. As no channel passes 6 anyhow, it is
      hardly ever worth it.

    All of it is exact for every image, not only for those of the calibration. What a rewrite is
    worth is measured in nats that rounding costs the answers (`compress/int8/sensitivity.py`).
    Those that cost nothing are done where they save `NOTICED`; of those that save `WORTH`, the
    fewest.

    Args:
        calibration: images of the training split, through the evaluation view.
        gain: of the rewrites that cost operations the fewest that bring this share of what all
            would.
        num_images: how many images ranges are taken from, and sensitivities at most.

    Returns:
        A new model; `model` itself where no rewrite is worth it.

    Raises:
        UserError: the model has nothing that can be rewritten.
    """
    images = calibration_images(calibration, num_images)
    graph = LayerGraph.of(model)
    spans = find_spans(graph)
    graph.check_names("be equalized")
    if not spans:
        raise UserError(
            f"model {model.name!r} has nothing to equalize: no BatchNormalization or convolution "
            "whose channels reach other convolutions through nothing but activations (ReLU, "
            "ReLU6, swish, hard-swish), pooling and sums, each layer used once. Leave the method "
            "out."
        )
    scales = [_scale(each) for each in _ranges(graph, spans, images)]
    gains = np.array(_gains(model, spans, scales, images))
    chosen = _chosen(spans, gains, gain)
    _report(spans, gains, chosen)
    return _rewritten(model, [(spans[i], scales[i]) for i in chosen]) if chosen else model


def _ranges(graph: LayerGraph, spans: list[Span], images: np.ndarray) -> list[np.ndarray]:
    """The largest magnitude of every channel, (channels,), in each span."""
    seen = keras.Model(graph.inputs, [each.tensor for span in spans for each in span.rounded])
    largest = [np.zeros(span.rounded[0].tensor.shape[-1]) for span in spans]
    owners = [(i, each.zero_below) for i, span in enumerate(spans) for each in span.rounded]
    for batch in small_batches(images):
        outputs = keras.tree.flatten(seen.predict_on_batch(batch))
        for (i, zero_below), values in zip(owners, outputs, strict=True):
            kept = np.abs(np.maximum(values, zero_below))
            largest[i] = np.maximum(largest[i], kept.max(axis=tuple(range(np.ndim(values) - 1))))
    return largest


def _scale(largest: np.ndarray) -> np.ndarray:
    """s of every channel; all of them multiply to 1."""
    ranges = np.maximum(largest, max(SMALLEST_RANGE * float(largest.max()), 1e-6))
    return np.exp(np.log(ranges) - np.log(ranges).mean())


def _gains(
    model: keras.Model, spans: list[Span], scales: list[np.ndarray], images: np.ndarray
) -> list[float]:
    """Nats that each rewrite saves the answers."""
    old = [[each.name for each in span.rounded] for span in spans]
    new = [[name for each in span.rounded for name in each.names_after] for span in spans]
    before = _costs(model, images, old)
    after = _costs(_rewritten(model, zip(spans, scales, strict=True)), images, new)
    return [one - other for one, other in zip(before, after, strict=True)]


def _costs(model: keras.Model, images: np.ndarray, tensors: list[list[str]]) -> list[float]:
    """Nats that rounding some tensors together costs, for each list of them."""
    some = images[:NUM_GRADIENT_IMAGES]
    known = measure_sensitivities(model, some, only={name for names in tensors for name in names})
    return [sum(known[name].cost for name in names if name in known) for names in tensors]


def _chosen(spans: list[Span], gains: np.ndarray, share: float) -> list[int]:
    """Indices of the spans to rewrite: those that cost nothing, and the fewest of the others."""
    costly = np.array([bool(span.activations) for span in spans])
    free = np.flatnonzero(~costly & (gains >= NOTICED))
    return sorted([*free.tolist(), *_fewest(np.where(costly, gains, 0.0), share)])


def _fewest(gains: np.ndarray, share: float) -> list[int]:
    """The fewest indices worth an operation that have `share` of all gains, the largest first."""
    order = [int(i) for i in np.argsort(-gains, kind="stable") if gains[i] >= WORTH]
    wanted = share * gains[gains > 0].sum()
    return order[: int(np.searchsorted(np.cumsum(gains[order]), wanted)) + 1]


def _report(spans: list[Span], gains: np.ndarray, chosen: list[int]) -> None:
    """Say what is rewritten and what is not, with the nats that it saves or would save."""

    def told(i: int) -> str:
        rules = sorted({rule.name for rule in spans[i].activations.values()}) or ["for free"]
        return f"{spans[i].name} ({', '.join(rules)}, {gains[i]:.2g} nats)"

    left = [i for i in range(len(spans)) if i not in chosen]
    log.info(
        "equalized %d of %d places: %s; the others would save %.2g nats more",
        len(chosen), len(spans), ", ".join(map(told, chosen)) or "none is worth it",
        sum(max(gains[i], 0.0) for i in left),
    )  # fmt: skip


def _rewritten(model: keras.Model, chosen: Iterable[tuple[Span, np.ndarray]]) -> keras.Model:
    """The model with the channels of some of its spans divided, each by its s."""
    moved = list(chosen)
    rules: dict[str, tuple[Rule, np.ndarray]] = {
        name: (rule, rule.factor * scale)
        for span, scale in moved
        for name, rule in span.activations.items()
    }

    def stand_in(layer: Any) -> Callable:
        if layer.name not in rules:
            return layer
        rule, scale = rules[layer.name]
        return lambda x: rule.scaled(x, scale, layer.name)

    found = rebuild_model(model, stand_in)
    for span, scale in moved:
        for source in span.sources:
            factor = source.rule.factor if source.rule else 1.0
            divide_outputs(found.get_layer(source.layer.name), factor * scale)
        for kernel in span.kernels:
            multiply_inputs(found.get_layer(kernel.name), scale)
    return found
