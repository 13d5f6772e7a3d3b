"""Groups of channels that can only be removed together, and a model without some channels."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from compress.graph.kernels import has_kernel, is_channels_last, mixes_channels
from compress.graph.layer_graph import LayerCall, LayerGraph
from compress.graph.replay import rebuild_model
from distill.backbones.macs import layer_macs

KEEPS_CHANNELS = {
    "Activation", "AveragePooling2D", "Dropout", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
    "LeakyReLU", "MaxPooling2D", "ReLU", "SpatialDropout2D", "ZeroPadding2D",
}  # fmt: skip
"""Layers without weights that compute each channel from the same channel of the input."""

ACROSS_CHANNELS = {"glu", "log_softmax", "softmax", "sparsemax"}
"""Names of activations that compute a channel from other channels."""
CONVERTED_AWAY = (
    layers.BatchNormalization, layers.Dropout, layers.Flatten, layers.Normalization,
    layers.Rescaling, layers.Reshape, layers.ZeroPadding2D,
)  # fmt: skip
"""Layers that a converter removes or merges into a neighbour."""


class Term(NamedTuple):
    """A part of a model's cost: `unit` times the sizes of the groups."""

    unit: int
    groups: tuple[int, ...]


def total(terms: Sequence[Term], sizes: Sequence[int]) -> int:
    """The cost of a model whose groups have these sizes."""
    return sum(term.unit * math.prod(sizes[index] for index in term.groups) for term in terms)


@dataclass(frozen=True)
class Group:
    """Channels that are removed together, such as the expanded ones of an inverted residual block.

    Attributes:
        size: the number of channels.
        exits: names of the layers whose outputs are read by kernels.
    """

    size: int
    exits: list[str]


class ChannelGroups:
    """The channels of a model that can be removed, in groups.

    Some channels cannot: those of the image and of the answers, those that meet others in a
    residual connection or a concatenation, and those of layers that are used twice or unknown.

    Attributes:
        groups: in the order of the graph.
        macs: the multiply-accumulates of one image.
        writes: how many numbers are written to memory for one image.
    """

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        self._tied = _tied(graph)
        fixed = {self._tied.root(tensor) for tensor in _fixed(graph)}
        readers: dict[int, list[LayerCall]] = {}
        for call in graph.calls:
            if mixes_channels(call.layer):
                readers.setdefault(self._tied.root(_tensors(call)[0]), []).append(call)
        made_by = {id(call.output): call.layer.name for call in graph.calls}
        self._index: dict[int, int] = {}
        self.groups: list[Group] = []
        for call in graph.calls:
            root = self._tied.root(call.output)
            if root in fixed or root in self._index or root not in readers:
                continue
            tensors = dict.fromkeys(id(_tensors(reader)[0]) for reader in readers[root])
            self._index[root] = len(self.groups)
            self.groups.append(Group(call.output.shape[-1], [made_by[key] for key in tensors]))
        self.macs = [term for call in graph.calls if (term := self._macs(call)).unit]
        self.writes = [
            self._term(math.prod(output.shape[1:]), [output])
            for call in graph.calls
            if not isinstance(call.layer, CONVERTED_AWAY)
            for output in _outputs(call)
        ]

    def readers(self) -> Iterator[tuple[LayerCall, str, int]]:
        """Calls of kernels that read a group: (call, name of the exit, index of the group)."""
        made_by = {id(call.output): call.layer.name for call in self.graph.calls}
        for call in self.graph.calls:
            if (
                mixes_channels(call.layer)
                and (index := self.of(read := _tensors(call)[0])) is not None
            ):
                yield call, made_by[id(read)], index

    def of(self, tensor: Any) -> int | None:
        """The index of the group that the channels of a tensor belong to, if any."""
        return self._index.get(self._tied.root(tensor))

    def _macs(self, call: LayerCall) -> Term:
        """The multiply-accumulates of a call, of which unknown layers have none."""
        read, written = (tensors[:1] for tensors in (_tensors(call), _outputs(call)))
        if not read:
            return Term(0, ())
        macs = layer_macs(call.layer, input_shape=read[0].shape, output_shape=written[0].shape)
        return self._term(macs or 0, read + written if mixes_channels(call.layer) else read)

    def _term(self, count: int, sides: list[Any]) -> Term:
        """A cost of `count` that is proportional to the channels of these tensors."""
        groups = tuple(index for side in sides if (index := self.of(side)) is not None)
        return Term(count // math.prod(self.groups[index].size for index in groups), groups)


class _Tied:
    """Which tensors have the same channels (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def root(self, tensor: Any) -> int:
        """A key that tensors with the same channels share."""
        key = id(tensor)
        while key in self._parents:
            key = self._parents[key]
        return key

    def tie(self, one: Any, other: Any) -> None:
        """Note that two tensors have the same channels."""
        if (root := self.root(one)) != (parent := self.root(other)):
            self._parents[root] = parent


def _tied(graph: LayerGraph) -> _Tied:
    """Ties what every layer reads to what it returns, except across kernels that mix channels."""
    tied = _Tied()
    for call in graph.calls:
        if not mixes_channels(call.layer):
            for tensor in _tensors(call):
                for output in _outputs(call):
                    tied.tie(tensor, output)
    return tied


def _fixed(graph: LayerGraph) -> Iterator[Any]:
    """The tensors whose channels cannot be removed."""
    yield graph.inputs
    yield graph.output
    for call in graph.calls:
        tensors = _tensors(call)
        is_known = mixes_channels(call.layer) or _keeps_channels(call, tensors)
        activation = getattr(getattr(call.layer, "activation", None), "__name__", "")
        if not is_known or graph.num_calls(call.layer) > 1:
            yield from (*tensors, *_outputs(call))
        elif activation in ACROSS_CHANNELS:
            yield call.output


def _tensors(call: LayerCall) -> list[Any]:
    """The inputs of a call that are tensors of the graph."""
    return [value for value in call.inputs if isinstance(value, keras.KerasTensor)]


def _outputs(call: LayerCall) -> list[Any]:
    """The outputs; only operations such as a split have more than one."""
    return list(keras.tree.flatten(call.output))


def _keeps_channels(call: LayerCall, tensors: list[Any]) -> bool:
    """Whether each channel of the output depends on the same channel of the inputs alone."""
    if len(_outputs(call)) > 1:
        return False
    layer, channels = call.layer, call.output.shape[-1]
    if any(tensor.shape[-1] != channels for tensor in tensors):
        return False
    if not is_channels_last(layer):
        return False
    if isinstance(layer, layers.DepthwiseConv2D):
        return layer.depth_multiplier == 1
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, len(call.output.shape) - 1)
    if isinstance(layer, layers.Reshape | layers.Flatten):
        return all(set(tensor.shape[1:-1]) <= {1} for tensor in (*tensors, call.output))
    if isinstance(layer, layers.Multiply):  # a gate; a residual connection is a sum
        return True
    return type(layer).__name__ in KEEPS_CHANNELS


def with_channels(
    model: keras.Model, groups: ChannelGroups, remaining: Sequence[np.ndarray]
) -> keras.Model:
    """A smaller model: the remaining channels of every group, with their weights.

    Args:
        groups: of the model.
        remaining: the indices of the channels that stay, for each group.
    """
    smaller: dict[int, tuple[Any, list[np.ndarray]]] = {}
    for call in groups.graph.calls:
        sides = [groups.of(tensor) for tensor in (_tensors(call)[0], call.output)]
        if any(side is not None for side in sides):
            read, written = (None if side is None else remaining[side] for side in sides)
            smaller[id(call.layer)] = _smaller(call.layer, read, written)

    def stand_in(layer: Any) -> Callable:
        if id(layer) not in smaller:
            return layer
        twin, weights = smaller[id(layer)]

        def build_and_run(*args: Any, **kwargs: Any) -> Any:
            output = twin(*args, **kwargs)
            twin.set_weights(weights)
            return output

        return build_and_run

    return rebuild_model(model, stand_in)


def _smaller(
    layer: Any, read: np.ndarray | None, written: np.ndarray | None
) -> tuple[Any, list[np.ndarray]]:
    """The layer with fewer channels, not yet built, and its weights."""
    config, weights = layer.get_config(), layer.get_weights()
    if written is not None:
        if isinstance(layer, layers.Conv2D):
            config["filters"] = len(written)
        elif isinstance(layer, layers.Dense):
            config["units"] = len(written)
        elif isinstance(layer, layers.Reshape):
            config["target_shape"] = (*layer.target_shape[:-1], len(written))
    if has_kernel(layer):
        kernel, *bias = weights
        if read is not None:
            kernel = kernel.take(read, axis=-2)
        if written is not None:
            # A depthwise kernel has no other axis than the one that reads.
            kernel = kernel.take(written, axis=-1) if mixes_channels(layer) else kernel
            bias = [values[written] for values in bias]
        weights = [kernel, *bias]
    elif written is not None:
        weights = [values[written] for values in weights]
    return type(layer).from_config(config), weights
