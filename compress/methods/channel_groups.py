"""Channels that can only be removed together, and a model without some of them."""

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
"""Layers without weights, each of whose channels comes of the same channel before."""


ACROSS_CHANNELS = {"glu", "log_softmax", "softmax", "sparsemax"}
"""Activations by name that make a channel of others."""
CONVERTED_AWAY = (
    layers.BatchNormalization, layers.Dropout, layers.Flatten, layers.Normalization,
    layers.Rescaling, layers.Reshape, layers.ZeroPadding2D,
)  # fmt: skip
"""Layers that become part of the one before or behind, or nothing, in a file."""


class Term(NamedTuple):
    """A share of what a model costs: `unit`, times the sizes of some groups."""

    unit: int
    groups: tuple[int, ...]


def total(terms: Sequence[Term], sizes: Sequence[int]) -> int:
    """What a model costs when its groups have these sizes."""
    return sum(term.unit * math.prod(sizes[index] for index in term.groups) for term in terms)


@dataclass(frozen=True)
class Group:
    """Channels that share their fate, such as the expanded ones of an inverted residual block.

    Attributes:
        size: how many there are.
        exits: names of the layers that give the tensors in which kernels read them.
    """

    size: int
    exits: list[str]


class ChannelGroups:
    """The channels that a model can do without, by groups.

    Left out are the channels of the image and of the answers, those that meet others in a
    residual connection or a concatenation, and those of layers that serve twice or that nothing
    is known about.

    Attributes:
        groups: in the order of the graph.
        macs: the multiply-accumulates of one image.
        writes: the numbers that are written to memory for one image.
    """

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        self._tied = _tied(graph)
        fixed = {self._tied.root(tensor) for tensor in _fixed(graph)}
        readers: dict[int, list[LayerCall]] = {}
        for use in graph.calls:
            if mixes_channels(use.layer):
                readers.setdefault(self._tied.root(_tensors(use)[0]), []).append(use)
        made_by = {id(use.output): use.layer.name for use in graph.calls}
        self._index: dict[int, int] = {}
        self.groups: list[Group] = []
        for use in graph.calls:
            root = self._tied.root(use.output)
            if root in fixed or root in self._index or root not in readers:
                continue
            read = dict.fromkeys(id(_tensors(reader)[0]) for reader in readers[root])
            self._index[root] = len(self.groups)
            self.groups.append(Group(use.output.shape[-1], [made_by[each] for each in read]))
        self.macs = [term for use in graph.calls if (term := self._macs(use)).unit]
        self.writes = [
            self._term(math.prod(output.shape[1:]), [output])
            for use in graph.calls
            if not isinstance(use.layer, CONVERTED_AWAY)
            for output in _outputs(use)
        ]

    def readers(self) -> Iterator[tuple[LayerCall, str, int]]:
        """Each use of a kernel that reads a group, with the name of the exit and the group."""
        made_by = {id(use.output): use.layer.name for use in self.graph.calls}
        for use in self.graph.calls:
            if (
                mixes_channels(use.layer)
                and (index := self.of(read := _tensors(use)[0])) is not None
            ):
                yield use, made_by[id(read)], index

    def of(self, tensor: Any) -> int | None:
        """The index of the group that the channels of a tensor are."""
        return self._index.get(self._tied.root(tensor))

    def _macs(self, use: LayerCall) -> Term:
        read, written = (tensors[:1] for tensors in (_tensors(use), _outputs(use)))
        if not read:
            return Term(0, ())
        macs = layer_macs(use.layer, input_shape=read[0].shape, output_shape=written[0].shape)
        return self._term(macs or 0, read + written if mixes_channels(use.layer) else read)

    def _term(self, count: int, sides: list[Any]) -> Term:
        groups = tuple(index for side in sides if (index := self.of(side)) is not None)
        return Term(count // math.prod(self.groups[index].size for index in groups), groups)


class _Tied:
    """Which tensors have the same channels (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def root(self, tensor: Any) -> int:
        key = id(tensor)
        while key in self._parents:
            key = self._parents[key]
        return key

    def tie(self, one: Any, other: Any) -> None:
        if (root := self.root(one)) != (parent := self.root(other)):
            self._parents[root] = parent


def _tied(graph: LayerGraph) -> _Tied:
    tied = _Tied()
    for use in graph.calls:
        if not mixes_channels(use.layer):
            for tensor in _tensors(use):
                for output in _outputs(use):
                    tied.tie(tensor, output)
    return tied


def _fixed(graph: LayerGraph) -> Iterator[Any]:
    """Tensors that keep all of their channels."""
    yield graph.inputs
    yield graph.output
    for use in graph.calls:
        tensors = _tensors(use)
        known = mixes_channels(use.layer) or _keeps_channels(use, tensors)
        activation = getattr(getattr(use.layer, "activation", None), "__name__", "")
        if not known or graph.num_calls(use.layer) > 1:
            yield from (*tensors, *_outputs(use))
        elif activation in ACROSS_CHANNELS:
            yield use.output


def _tensors(use: LayerCall) -> list[Any]:
    return [each for each in use.inputs if isinstance(each, keras.KerasTensor)]


def _outputs(use: LayerCall) -> list[Any]:
    """One, but for operations such as a split."""
    return list(keras.tree.flatten(use.output))


def _keeps_channels(use: LayerCall, tensors: list[Any]) -> bool:
    if len(_outputs(use)) > 1:
        return False
    layer, channels = use.layer, use.output.shape[-1]
    if any(tensor.shape[-1] != channels for tensor in tensors):
        return False
    if not is_channels_last(layer):
        return False
    if isinstance(layer, layers.DepthwiseConv2D):
        return layer.depth_multiplier == 1
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, len(use.output.shape) - 1)
    if isinstance(layer, layers.Reshape | layers.Flatten):
        return all(set(tensor.shape[1:-1]) <= {1} for tensor in (*tensors, use.output))
    if isinstance(layer, layers.Multiply):  # a gate; sums are what residual connections are
        return True
    return type(layer).__name__ in KEEPS_CHANNELS


def with_channels(
    model: keras.Model, groups: ChannelGroups, kept: Sequence[np.ndarray]
) -> keras.Model:
    """A smaller model: the kept channels with their weights, and the same layers otherwise.

    Args:
        groups: of the model.
        kept: for each group the indices of the channels that stay.
    """
    smaller: dict[int, tuple[Any, list[np.ndarray]]] = {}
    for use in groups.graph.calls:
        sides = [groups.of(tensor) for tensor in (_tensors(use)[0], use.output)]
        if any(side is not None for side in sides):
            read, written = (None if side is None else kept[side] for side in sides)
            smaller[id(use.layer)] = _smaller(use.layer, read, written)

    def stand_in(layer: Any) -> Callable:
        if id(layer) not in smaller:
            return layer
        twin, weights = smaller[id(layer)]

        def call(*args: Any, **kwargs: Any) -> Any:
            output = twin(*args, **kwargs)
            twin.set_weights(weights)
            return output

        return call

    return rebuild_model(model, stand_in)


def _smaller(
    layer: Any, read: np.ndarray | None, written: np.ndarray | None
) -> tuple[Any, list[np.ndarray]]:
    """A layer for some of its channels, not yet built, and its weights."""
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
            axis = -1 if mixes_channels(layer) else None
            kernel = kernel if axis is None else kernel.take(written, axis=axis)
            bias = [each[written] for each in bias]
        weights = [kernel, *bias]
    elif written is not None:
        weights = [each[written] for each in weights]
    return type(layer).from_config(config), weights
