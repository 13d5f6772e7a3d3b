"""Where channels can be scaled: the layers that bring a scale in, pass it on and undo it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from compress.graph.graph import Graph, Use


class Rule(NamedTuple):
    """How f(x) / s is computed of x' = x / (factor * s), for an activation f that is not linear.

    Attributes:
        name: of the activation, for people.
        scaled: (x', factor * s, name of the activation) -> f(x) / s, exactly, for every x.
        rounded: what ends the names of the tensors in it that int8 rounds anew.
        factor: see above.
        zero_below: f is 0 there, or as good as 0: what lies below needs no range.
        is_fused: files compute it within the layer before, so they never round x.
    """

    name: str
    scaled: Callable[[Any, np.ndarray, str], Any]
    rounded: tuple[str, ...]
    factor: float = 1.0
    zero_below: float = -np.inf
    is_fused: bool = False


def _swish(x: Any, scale: np.ndarray, name: str) -> Any:
    """x' * sigmoid(s * x'): the gate has to see the x of before."""
    scaled = layers.Rescaling(scale.tolist(), name=f"{name}_scale")(x)
    gate = layers.Activation("sigmoid", name=f"{name}_gate")(scaled)
    return layers.Multiply(name=f"{name}_product")([x, gate])


def _hard_swish(x: Any, scale: np.ndarray, name: str) -> Any:
    """x' * relu6(6s * x' + 3): of x * relu6(x + 3) / 6 the sixth is in x' already."""
    scaled = layers.Rescaling(scale.tolist(), offset=3.0, name=f"{name}_scale")(x)
    gate = layers.ReLU(6.0, name=f"{name}_gate")(scaled)
    return layers.Multiply(name=f"{name}_product")([x, gate])


def _relu6(x: Any, scale: np.ndarray, name: str) -> Any:
    """min(relu(x'), 6 / s): every channel is cut off where 6 was."""
    positive = layers.ReLU(name=f"{name}_relu")(x)
    cut = keras.ops.minimum(positive, (6 / scale).astype("float32"))
    return layers.Activation("linear", name=f"{name}_cut")(cut)  # a name that can be told


RULES = {
    keras.activations.silu: Rule("swish", _swish, ("_scale", "_product"), zero_below=-8.0),
    keras.activations.hard_silu: Rule(
        "hard-swish", _hard_swish, ("_scale", "_gate", "_product"), factor=6.0, zero_below=-3.0
    ),
    keras.activations.relu6: Rule("ReLU6", _relu6, ("_cut",), is_fused=True),
}
"""By activation. Files compute a swish of two operations and take one more with the rule, a
hard-swish of one and take two more, a ReLU6 within the layer before and take one."""
FUSED = (keras.activations.linear, keras.activations.relu)
"""Files compute these within the layer before, which then rounds only what they let through."""
HOMOGENEOUS = (*FUSED, keras.activations.leaky_relu)
"""f(x / s) is f(x) / s: a scale passes, and nothing has to be computed for it."""
COPIES = (
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.ZeroPadding2D,
    layers.MaxPooling2D,
    layers.GlobalMaxPooling2D,
    layers.Reshape,
    layers.Flatten,
)
"""What comes out is some of what went in, or 0."""
SUMS = (layers.Add, layers.AveragePooling2D, layers.GlobalAveragePooling2D)
KERNELS = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)


class Source(NamedTuple):
    """What gives the channels of a tensor divided by s.

    Attributes:
        layer: the one whose weights are divided.
        use: of it, or of the activation that follows it and has a rule.
        tensor: what the layer gives.
    """

    layer: Any
    use: Use
    tensor: Any
    rule: Rule | None


class Rounded(NamedTuple):
    """A tensor of the model that int8 files round, with the names of what is rounded afterwards."""

    tensor: Any
    name: str
    afterwards: list[str]
    zero_below: float = -np.inf


class Span(NamedTuple):
    """The tensors that one scale of channels has to go through together.

    From all layers that give something to them to all kernels that read something of them:
    a BatchNormalization, a swish and a depthwise convolution, or a whole chain of residual blocks.
    """

    sources: list[Source]
    kernels: list[Any]
    rounded: list[Rounded]

    @property
    def name(self) -> str:
        return self.sources[0].use.layer.name

    @property
    def activations(self) -> dict[str, Rule]:
        """The rules of the activations to rewrite, by name; none: the scale costs nothing."""
        return {each.use.layer.name: each.rule for each in self.sources if each.rule}


def spans_of(graph: Graph) -> list[Span]:
    """All spans that a scale can be moved through, in the order of the graph."""
    if graph.shared_name():
        return []
    found, known = [], set[int]()
    for use in graph.uses:
        if id(use.output) not in known and _source(graph, use):
            reached = _reached(graph, use)
            if reached and (span := _span(graph, reached)):
                found.append(span)
                known |= {id(each.output) for each in reached}
    return found


def _reached(graph: Graph, start: Use) -> list[Use]:
    """The uses whose outputs have the scale of that of `start`; none if it cannot be undone."""
    pending, reached = [start], dict[int, Use]()
    while pending:
        use = pending.pop()
        if id(use.output) in reached:
            continue
        reached[id(use.output)] = use
        neighbours = _neighbours(graph, use)
        if neighbours is None or use.output.shape[-1] != start.output.shape[-1]:
            return []
        pending += neighbours
    uses = [use for use in graph.uses if id(use.output) in reached]
    # Of the factors of a product one has the scale; from both, it would have to be undone twice.
    products = [use.inputs for use in uses if isinstance(use.layer, layers.Multiply)]
    if any(len(of) != 2 or sum(id(each) in reached for each in of) != 1 for of in products):
        return []
    return uses


def _neighbours(graph: Graph, use: Use) -> list[Use] | None:
    """The uses before and after one that have its scale, too; None if something else has it.

    Which factor of a product has it is left to the walk that comes by that factor.
    """
    readers = graph.readers(use.output)
    after = [each for each in readers if not _undoes(each.layer)]
    if use.output is graph.output or not readers:
        return None
    if not all(_passes(each) or isinstance(each.layer, layers.Multiply) for each in after):
        return None
    if _passes(use):
        makers = [graph.maker(each) for each in use.inputs if hasattr(each, "shape")]
        before = [maker for maker in makers if maker]
        return [*before, *after] if len(before) == len(makers) else None  # no pixels or constants
    return after if isinstance(use.layer, layers.Multiply) or _source(graph, use) else None


def _span(graph: Graph, reached: list[Use]) -> Span | None:
    """The span of these uses, unless a layer of it is used elsewhere, too."""
    sources = [source for use in reached if (source := _source(graph, use))]
    readers = [reader for use in reached for reader in graph.readers(use.output)]
    kernels = [reader.layer for reader in readers if _undoes(reader.layer)]
    moved = [*(use.layer for use in reached), *(each.layer for each in sources), *kernels]
    if any(graph.num_uses(layer) != 1 for layer in moved):
        return None
    return Span(sources, kernels, list(_rounded(graph, reached, sources)))


def _rounded(graph: Graph, reached: list[Use], sources: list[Source]) -> Iterator[Rounded]:
    by_use = {id(source.use): source for source in sources}
    for use in reached:
        name, source = use.layer.name, by_use.get(id(use))
        rule = source.rule if source else None
        if source and rule and not rule.is_fused:
            before = source.layer.name
            yield Rounded(source.tensor, before, [before], rule.zero_below)
        is_fused = all(_function(reader.layer) in FUSED for reader in graph.readers(use.output))
        if not is_fused and not isinstance(use.layer, COPIES):
            afterwards = [name + end for end in rule.rounded] if rule else [name]
            yield Rounded(use.output, name, afterwards)


def _source(graph: Graph, use: Use) -> Source | None:
    if _divides(use):
        return Source(use.layer, use, use.output, None)
    rule = RULES.get(_function(use.layer))
    before = graph.maker(use.inputs[0]) if rule else None
    if before is None or not _divides(before) or len(graph.readers(before.output)) != 1:
        return None
    if getattr(before.layer, "activation", keras.activations.linear) != keras.activations.linear:
        return None
    return Source(before.layer, use, before.output, rule)


def _divides(use: Use) -> bool:
    """Whether dividing the layer's weights divides the channels of what it gives."""
    layer = use.layer
    if isinstance(layer, layers.BatchNormalization):
        return layer.scale and layer.center and layer.axis in (-1, len(use.output.shape) - 1)
    return (
        isinstance(layer, KERNELS) and _is_channels_last(layer) and layer.activation in HOMOGENEOUS
    )


def _undoes(layer: Any) -> bool:
    """Whether the layer's kernel has numbers for every channel that it reads."""
    return (
        isinstance(layer, KERNELS) and _is_channels_last(layer) and getattr(layer, "groups", 1) == 1
    )


def _is_channels_last(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _passes(use: Use) -> bool:
    """Whether channels that come in divided by s go out divided by s, and nothing else changes."""
    if isinstance(use.layer, layers.Reshape | layers.Flatten):
        # (batch, channels) to (batch, 1, 1, channels), or back.
        before, after = use.inputs[0].shape, use.output.shape
        return before[-1] == after[-1] and {*before[1:-1], *after[1:-1]} <= {1}
    return isinstance(use.layer, (*COPIES, *SUMS)) or _function(use.layer) in HOMOGENEOUS


def _function(layer: Any) -> Callable | None:
    """The activation that a layer is, of those known here."""
    if isinstance(layer, layers.Activation):
        return layer.activation
    if isinstance(layer, layers.LeakyReLU | layers.PReLU):
        return keras.activations.leaky_relu
    if isinstance(layer, layers.ReLU) and not layer.threshold:
        if layer.max_value is None:
            slope = layer.negative_slope
            return keras.activations.leaky_relu if slope else keras.activations.relu
        if layer.max_value == 6 and not layer.negative_slope:
            return keras.activations.relu6
    return None


def divide(layer: Any, scale: np.ndarray) -> None:
    """Divide what a BatchNormalization or a layer with a kernel gives by s, (channels,)."""
    if isinstance(layer, layers.BatchNormalization):
        weights = [layer.gamma, layer.beta]
    else:
        weights = [layer.kernel, layer.bias] if layer.use_bias else [layer.kernel]
    for each in weights:
        # The outputs of a depthwise kernel are its last two axes: (channels, multiplier).
        depthwise = each.ndim == 4 and isinstance(layer, layers.DepthwiseConv2D)
        by = scale.reshape(each.shape[2:]) if depthwise else scale
        each.assign(each / by.astype("float32"))


def multiply(layer: Any, scale: np.ndarray) -> None:
    """Multiply what a layer's kernel makes of every channel by s, (channels,)."""
    # (height, width, in, out), depthwise (height, width, in, multiplier), or (in, out).
    layer.kernel.assign(layer.kernel * scale[:, None].astype("float32"))
