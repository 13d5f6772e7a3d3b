"""The graph of a SavedModel as Keras layers, so that int8 treats it as any other model."""

from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from itertools import chain, count
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compress.foreign.answers import NoCounterpart
from compress.foreign.saved_model.linear import Affine, Linear, is_neutral

Value = Any
"""A constant (an array), a tensor of the new model, or a `Linear` or `Affine` of one."""
Operation = Callable[..., Value]
"""(builder, node, *values) -> value: builds what an operation of a graph computes."""


class LayerBuilder:
    """Builds the layers of a graph one after the other.

    Scalings and offsets by constants wait until a layer reads them: most of them belong to the
    kernel before them, and become a part of it.

    Args:
        function: with one input, an image, and one output.
        operations: what builds an operation, by its name in TensorFlow.

    Attributes:
        image: the input of the new model.
        sigmoid_of: what a sigmoid reads, by the id of what it returns.
    """

    def __init__(self, function: Any, image: Any, operations: Mapping[str, Operation]) -> None:
        self.image = image
        self._function = function
        self._operations = operations
        self._nodes = {node.name: node for node in function.graph.as_graph_def().node}
        self._values: dict[str, Value] = {function.inputs[0].op.name: image}
        self._built: dict[int, tuple[Value, Any]] = {}
        self._names: set[str] = set()
        self.sigmoid_of: dict[int, Any] = {}

    def output(self) -> Any:
        """What the function returns, as a tensor of the new model.

        Raises:
            NoCounterpart: an operation has no Keras layer that is known here.
        """
        last = self._function.outputs[0].op.name
        order = list(TopologicalSorter(self._reads(last)).static_order())
        self._add_constants(order)
        for name in order:
            if name not in self._values:
                self._values[name] = self._build(self._nodes[name])
        return self.tensor(self._values[last])

    def _reads(self, last: str) -> dict[str, list[str]]:
        """The nodes that each node reads, for all that the last one needs."""
        reads: dict[str, list[str]] = {}
        waiting = [last]
        while waiting:
            name = waiting.pop()
            if name not in reads:
                reads[name] = [] if name in self._values else list(self._inputs(name))
                waiting += reads[name]
        return reads

    def _inputs(self, name: str) -> Iterator[str]:
        for text in self._nodes[name].input:
            other, _, number = text.partition(":")
            if text.startswith("^"):
                continue  # it only comes before
            if number not in ("", "0"):
                raise NoCounterpart(f"the operation {other} has several outputs")
            yield other

    def _add_constants(self, order: list[str]) -> None:
        """Compute all that does not depend on the image."""
        names: list[str] = []
        for name in order:
            if name not in self._values and set(self._inputs(name)) <= set(names):
                names.append(name)
        with tf.compat.v1.Session(graph=self._function.graph) as session:
            arrays = session.run([f"{name}:0" for name in names])
        self._values.update(zip(names, arrays, strict=True))

    def _build(self, node: Any) -> Value:
        values = [self._values[name] for name in self._inputs(node.name)]
        if node.op not in self._operations:
            raise NoCounterpart(f"the operation {node.op} has no Keras layer")
        return self._operations[node.op](self, node, *values)

    def name(self, node_name: str) -> str:
        """A new name for a layer, like that of the layer which made a node."""
        parts = [part for part in node_name.split("/") if not part.endswith("PartitionedCall")]
        name = parts[-2] if len(parts) > 1 else parts[-1]
        numbered = (f"{name}.{number}" for number in count(2))
        new_name = next(new for new in chain([name], numbered) if new not in self._names)
        self._names.add(new_name)
        return new_name

    def call(self, node: Any, layer: Callable, value: Value) -> Any:
        """What a new layer returns for a value.

        Args:
            layer: name -> layer.
        """
        return layer(name=self.name(node.name))(self.tensor(value))

    def tensor(self, value: Value) -> Any:
        """A value as a tensor of the new model; it is built when it is first needed."""
        if not isinstance(value, Linear | Affine):
            return value
        if id(value) not in self._built:
            affine = Affine(value, 1.0, 0.0) if isinstance(value, Linear) else value
            # An id is unique only while its object lives.
            self._built[id(value)] = value, self._affine(affine)
        return self._built[id(value)][1]

    def _affine(self, value: Affine) -> Any:
        if isinstance(value.source, Linear):
            return value.source.layer(value, self.name(value.source.name))(value.source.x)
        scale, offset = (np.asarray(part).tolist() for part in (value.scale, value.offset))
        if value.source is self.image:
            return keras.layers.Rescaling(scale, offset, name=self.name("rescaling"))(self.image)
        if np.ndim(value.scale) == np.ndim(value.offset) == 0:
            x = value.source if scale == 1 else value.source * scale
            return x if offset == 0 else x + offset
        return value.normalization(self.name("scale"))(value.source)

    def scaled(self, value: Value, scale: Any, offset: Any) -> Value:
        """A value times a constant plus a constant, for all channels or for each of them.

        Raises:
            NoCounterpart: the constants differ between pixels.
        """
        if is_neutral(scale, offset):
            return value
        before = value if isinstance(value, Affine) else Affine(value, 1.0, 0.0)
        return before.then(scale, offset)
