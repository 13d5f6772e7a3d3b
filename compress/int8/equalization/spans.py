"""Equalization: where channels can be scaled, and which layers bring a scale in and undo it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from compress.graph.kernels import (
    by_input,
    by_output,
    has_few_values,
    has_kernel,
    is_channels_last,
    weighs_each_input,
)
from compress.graph.layer_graph import LayerCall, LayerGraph
from compress.int8.equalization.rules import FUSED, HOMOGENEOUS, RULES, Rule, activation_of

COPIES = (
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.ZeroPadding2D,
    layers.MaxPooling2D,
    layers.GlobalMaxPooling2D,
    layers.Reshape,
    layers.Flatten,
)
"""Layers that return only values that they read, or 0."""
SUMS = (layers.Add, layers.AveragePooling2D, layers.GlobalAveragePooling2D)


class ScaleSource(NamedTuple):
    """A layer that can return its channels divided by a scale.

    Attributes:
        layer: its weights are divided.
        call: of this layer, or of the activation after it that has a rule.
        tensor: what the layer returns.
        rule: of that activation; None without one.
    """

    layer: Any
    call: LayerCall
    tensor: Any
    rule: Rule | None


class RoundedTensor(NamedTuple):
    """A tensor of the model that int8 files round.

    Attributes:
        names_after: the names of the tensors that are rounded instead once the span is scaled.
        zero_below: values below this need no range.
    """

    tensor: Any
    name: str
    names_after: list[str]
    zero_below: float = -np.inf


class Span(NamedTuple):
    """The tensors that one scale of channels has to go through together.

    A span reaches from all layers that return one of these tensors to all kernels that read one of
    them: a BatchNormalization, a swish and a depthwise convolution, or a whole chain of residual
    blocks.
    """

    sources: list[ScaleSource]
    kernels: list[Any]
    rounded: list[RoundedTensor]

    @property
    def name(self) -> str:
        return self.sources[0].call.layer.name

    @property
    def activations(self) -> dict[str, Rule]:
        """The rules of the activations to rewrite, by layer name. Without any a scale is free."""
        return {source.call.layer.name: source.rule for source in self.sources if source.rule}


def find_spans(graph: LayerGraph) -> list[Span]:
    """All spans that a scale can go through, in the order of the graph."""
    if graph.shared_name():
        return []
    spans, visited = [], set[int]()
    for call in graph.calls:
        if id(call.output) not in visited and _scale_source(graph, call):
            reached = _reached_calls(graph, call)
            if reached and (span := _span_of(graph, reached)):
                spans.append(span)
                visited |= {id(other.output) for other in reached}
    return spans


def _reached_calls(graph: LayerGraph, start: LayerCall) -> list[LayerCall]:
    """The calls whose outputs have the scale of `start`; none if the scale cannot be undone."""
    pending, reached = [start], dict[int, LayerCall]()
    while pending:
        call = pending.pop()
        if id(call.output) in reached:
            continue
        reached[id(call.output)] = call
        neighbours = _neighbours(graph, call)
        if neighbours is None or call.output.shape[-1] != start.output.shape[-1]:
            return []
        pending += neighbours
    calls = [call for call in graph.calls if id(call.output) in reached]
    # Exactly one factor of a product may have the scale; two would give its square.
    products = [call.inputs for call in calls if isinstance(call.layer, layers.Multiply)]
    for factors in products:
        if len(factors) != 2 or sum(id(factor) in reached for factor in factors) != 1:
            return []
    return calls


def _neighbours(graph: LayerGraph, call: LayerCall) -> list[LayerCall] | None:
    """The calls before and after one that have its scale too; None if others would have it.

    Which factor of a product has the scale is left to the walk that arrives by that factor.
    """
    readers = graph.readers(call.output)
    after = [reader for reader in readers if not weighs_each_input(reader.layer)]
    if call.output is graph.output or not readers:
        return None
    if not all(_passes_scale(r) or isinstance(r.layer, layers.Multiply) for r in after):
        return None
    if _passes_scale(call):
        writers = [graph.writer(read) for read in call.inputs if hasattr(read, "shape")]
        before = [writer for writer in writers if writer]
        # Pixels and constants have no writer, and nothing can divide them.
        return [*before, *after] if len(before) == len(writers) else None
    brings_scale = isinstance(call.layer, layers.Multiply) or _scale_source(graph, call)
    return after if brings_scale else None


def _span_of(graph: LayerGraph, reached: list[LayerCall]) -> Span | None:
    """The span of these calls; None if a layer of it is called elsewhere or must stay as it is."""
    sources = [source for call in reached if (source := _scale_source(graph, call))]
    readers = [reader for call in reached for reader in graph.readers(call.output)]
    kernels = [reader.layer for reader in readers if weighs_each_input(reader.layer)]
    scaled = [*(call.layer for call in reached), *(source.layer for source in sources), *kernels]
    if any(graph.num_calls(layer) != 1 for layer in scaled):
        return None
    # Factors for the channels of such a kernel would give it more values, or round it again.
    if any(has_kernel(layer) and has_few_values(layer) for layer in scaled):
        return None
    return Span(sources, kernels, list(_rounded_tensors(graph, reached, sources)))


def _rounded_tensors(
    graph: LayerGraph, reached: list[LayerCall], sources: list[ScaleSource]
) -> Iterator[RoundedTensor]:
    source_of = {id(source.call): source for source in sources}
    for call in reached:
        name, source = call.layer.name, source_of.get(id(call))
        rule = source.rule if source else None
        if source and rule and not rule.is_fused:
            before = source.layer.name
            yield RoundedTensor(source.tensor, before, [before], rule.zero_below)
        readers = graph.readers(call.output)
        is_fused = all(activation_of(reader.layer) in FUSED for reader in readers)
        if not is_fused and not isinstance(call.layer, COPIES):
            names_after = [name + end for end in rule.rounded] if rule else [name]
            yield RoundedTensor(call.output, name, names_after)


def _scale_source(graph: LayerGraph, call: LayerCall) -> ScaleSource | None:
    if _can_divide(call):
        return ScaleSource(call.layer, call, call.output, None)
    activation = activation_of(call.layer)
    rule = RULES.get(activation) if activation else None
    before = graph.writer(call.inputs[0]) if rule else None
    if before is None or not _can_divide(before) or len(graph.readers(before.output)) != 1:
        return None
    if getattr(before.layer, "activation", keras.activations.linear) != keras.activations.linear:
        return None
    return ScaleSource(before.layer, call, before.output, rule)


def _can_divide(call: LayerCall) -> bool:
    """Whether dividing the weights of the layer divides the channels that it returns."""
    layer = call.layer
    if isinstance(layer, layers.BatchNormalization):
        return layer.scale and layer.center and layer.axis in (-1, len(call.output.shape) - 1)
    return has_kernel(layer) and is_channels_last(layer) and layer.activation in HOMOGENEOUS


def _passes_scale(call: LayerCall) -> bool:
    """Whether channels that are read divided by s are returned divided by s, and unchanged else."""
    if isinstance(call.layer, layers.Reshape | layers.Flatten):
        # (batch, channels) to (batch, 1, 1, channels), or back.
        before, after = call.inputs[0].shape, call.output.shape
        return before[-1] == after[-1] and {*before[1:-1], *after[1:-1]} <= {1}
    is_linear = isinstance(call.layer, (*COPIES, *SUMS))
    return is_linear or activation_of(call.layer) in HOMOGENEOUS


def divide_outputs(layer: Any, scale: np.ndarray) -> None:
    """Divide what a BatchNormalization or a layer with a kernel returns by s, (channels,)."""
    if isinstance(layer, layers.BatchNormalization):
        for variable in (layer.gamma, layer.beta):
            variable.assign(variable / scale.astype("float32"))
        return
    layer.kernel.assign(layer.kernel / by_output(layer, scale).astype("float32"))
    if layer.use_bias:
        layer.bias.assign(layer.bias / scale.astype("float32"))


def multiply_inputs(layer: Any, scale: np.ndarray) -> None:
    """Multiply the weights of a layer for each channel that it reads by s, (channels,)."""
    layer.kernel.assign(layer.kernel * by_input(scale).astype("float32"))
