"""Exact equalization: channels with similar ranges, so that one int8 scale fits all of them.

In int8, a tensor of activations has one scale. In EfficientNet, the range of one channel can be 50
times that of another. The smaller channel then has only a handful of values left, and a depthwise
convolution cannot average this error away.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, NamedTuple

import keras
import numpy as np
from pydantic import BeforeValidator

from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import rebuild_model, small_batches
from compress.int8.equalization.rules import Rule
from compress.int8.equalization.spans import Span, divide_outputs, find_spans, multiply_inputs
from compress.int8.sensitivity import NUM_GRADIENT_IMAGES, measure_sensitivities

log = logging.getLogger("potstill")

# YAML reads `off` as false.
Equalize = Annotated[
    Literal["auto", "off"], BeforeValidator(lambda value: "off" if value is False else value)
]
"""Whether int8 files scale channels where that pays. It is exact, and `off` is for comparison."""
GAIN = 0.9
"""Of the rewrites that cost operations, the fewest are done that bring this share of the gain of
all."""
SMALLEST_RANGE = 1 / 64
"""The smallest range of a channel, relative to the largest. A channel that is hardly used must not
amplify the errors of its readers."""
WORTH = 1e-4
"""Nats that an additional operation must save. Rewritten ReLU6s that saved less worsened a file."""
NOTICED = 1e-6
"""Nats that a rewrite without an additional operation must save. Less is chance."""


class Equalized(NamedTuple):
    """What became of a model.

    Attributes:
        model: it has the same answers; the given one itself if nothing pays.
        places: the layers at whose outputs the channels are scaled.
        owners: the layer that each additional layer was a part of, by the name of the latter.
    """

    model: keras.Model
    places: list[str]
    owners: dict[str, str]


def equalized(model: keras.Model, images: np.ndarray, *, gain: float = GAIN) -> Equalized:
    """A model with the same answers, whose channels have similar ranges where rounding costs most.

    The weights that produce a channel are divided by its scale s, and the kernels that read it are
    multiplied by s (cross-layer equalization, Nagel et al. 2019, section 4.1, arXiv:1906.04721).
    This works through padding, pooling, squeeze-and-excitation and residual sums. s is the largest
    value of the channel over the calibration images, divided by the geometric mean over all
    channels. The cost depends on the activation in between, with x' = x / s:

    - None, ReLU and leaky ReLU pass a positive factor on. This costs nothing.
    - A swish becomes x' * sigmoid(s * x'), because its gate needs the original x. A hard-swish
      becomes x' * relu6(s * x' + 3) / 6. They cost one and two more operations. Only x above -8
      and -3 counts for s, because both functions are 0 below.
    - A ReLU6 becomes min(relu(x'), 6 / s), with one more operation. A channel that stays below 6 on
      all calibration images is clipped too, because another image may exceed 6. As ReLU6 bounds all
      channels anyway, this is rarely worth it.

    The rewrite is exact for every image, not only for the calibration images. The gain of a
    rewrite is measured in nats that rounding costs the answers (`compress/int8/sensitivity.py`).
    Rewrites that cost nothing are done if they save `NOTICED`. Of the others that save `WORTH`, the
    fewest are done. Kernels that `cluster` or `qat` made stay as they are.

    Args:
        images: float32, (images, height, width, 3), from the training split.
        gain: see `GAIN`.
    """
    graph = LayerGraph.of(model)
    spans = find_spans(graph)
    if not spans:
        return Equalized(model, [], {})
    scales = [_scale(ranges) for ranges in _ranges(graph, spans, images)]
    gains = np.array(_gains(model, spans, scales, images))
    chosen = _chosen(spans, gains, gain)
    _report(spans, gains, chosen)
    if not chosen:
        return Equalized(model, [], {})
    rewritten = _rewritten(model, [(spans[i], scales[i]) for i in chosen])
    rules = {name: rule for i in chosen for name, rule in spans[i].activations.items()}
    owners = {name + end: name for name, rule in rules.items() for end in rule.parts}
    return Equalized(rewritten, [spans[i].name for i in chosen], owners)


def _ranges(graph: LayerGraph, spans: list[Span], images: np.ndarray) -> list[np.ndarray]:
    """The largest magnitude of every channel, (channels,), in each span."""
    tensors = [(i, tensor) for i, span in enumerate(spans) for tensor in span.rounded]
    reader = keras.Model(graph.inputs, [tensor.tensor for _, tensor in tensors])
    largest = [np.zeros(span.rounded[0].tensor.shape[-1]) for span in spans]
    for batch in small_batches(images):
        outputs = keras.tree.flatten(reader.predict_on_batch(batch))
        for (i, tensor), values in zip(tensors, outputs, strict=True):
            magnitudes = np.abs(np.maximum(values, tensor.zero_below))
            by_channel = magnitudes.max(axis=tuple(range(np.ndim(values) - 1)))
            largest[i] = np.maximum(largest[i], by_channel)
    return largest


def _scale(largest: np.ndarray) -> np.ndarray:
    """s of every channel, (channels,); their product is 1."""
    ranges = np.maximum(largest, max(SMALLEST_RANGE * float(largest.max()), 1e-6))
    return np.exp(np.log(ranges) - np.log(ranges).mean())


def _gains(
    model: keras.Model, spans: list[Span], scales: list[np.ndarray], images: np.ndarray
) -> list[float]:
    """The nats that each rewrite saves."""
    old = [[tensor.name for tensor in span.rounded] for span in spans]
    new = [[name for tensor in span.rounded for name in tensor.names_after] for span in spans]
    before = _costs(model, images, old)
    after = _costs(_rewritten(model, zip(spans, scales, strict=True)), images, new)
    return [cost - cost_after for cost, cost_after in zip(before, after, strict=True)]


def _costs(model: keras.Model, images: np.ndarray, tensors: list[list[str]]) -> list[float]:
    """The nats that rounding costs, summed over each list of tensors."""
    sensitivities = measure_sensitivities(
        model,
        images[:NUM_GRADIENT_IMAGES],
        only={name for names in tensors for name in names},
    )
    # A name without a sensitivity is that of a tensor on which no answer depends.
    return [
        sum(sensitivities[name].cost for name in names if name in sensitivities)
        for names in tensors
    ]


def _chosen(spans: list[Span], gains: np.ndarray, share: float) -> list[int]:
    """Indices of the spans to rewrite: all that cost nothing, and the fewest of the others."""
    costly = np.array([bool(span.activations) for span in spans])
    free = np.flatnonzero(~costly & (gains >= NOTICED))
    return sorted([*free.tolist(), *_fewest(np.where(costly, gains, 0.0), share)])


def _fewest(gains: np.ndarray, share: float) -> list[int]:
    """The fewest indices with `share` of all gains, each worth an operation; the largest first."""
    order = [int(i) for i in np.argsort(-gains, kind="stable") if gains[i] >= WORTH]
    goal = share * gains[gains > 0].sum()
    return order[: int(np.searchsorted(np.cumsum(gains[order]), goal)) + 1]


def _report(spans: list[Span], gains: np.ndarray, chosen: list[int]) -> None:
    """Log what is rewritten, with the nats that it saves, and what the others would save."""

    def describe(i: int) -> str:
        rules = sorted({rule.name for rule in spans[i].activations.values()}) or ["for free"]
        return f"{spans[i].name} ({', '.join(rules)}, {gains[i]:.2g} nats)"

    left = [i for i in range(len(spans)) if i not in chosen]
    log.info(
        "equalized %d of %d places: %s; the others would save %.2g nats more",
        len(chosen), len(spans), ", ".join(map(describe, chosen)) or "none is worth it",
        sum(max(gains[i], 0.0) for i in left),
    )  # fmt: skip


def _rewritten(model: keras.Model, chosen: Iterable[tuple[Span, np.ndarray]]) -> keras.Model:
    """The model with the channels of the chosen spans divided by their scales."""
    scaled_spans = list(chosen)
    rules: dict[str, tuple[Rule, np.ndarray]] = {
        name: (rule, rule.factor * scale)
        for span, scale in scaled_spans
        for name, rule in span.activations.items()
    }

    def stand_in(layer: Any) -> Callable:
        if layer.name not in rules:
            return layer
        rule, scale = rules[layer.name]
        return lambda x: rule.scaled(x, scale, layer.name)

    rewritten = rebuild_model(model, stand_in)
    for span, scale in scaled_spans:
        for source in span.sources:
            factor = source.rule.factor if source.rule else 1.0
            divide_outputs(rewritten.get_layer(source.layer.name), factor * scale)
        for kernel in span.kernels:
            multiply_inputs(rewritten.get_layer(kernel.name), scale)
    return rewritten
