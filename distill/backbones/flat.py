"""Keras models without models inside: what the tools that walk a graph expect of a backbone."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from configs.errors import UserError
from distill.backbones import HEAD
from distill.backbones.weights_file import set_weights

RESERVED = ("image", "pixels", "dropout", HEAD)
"""Names that layers of every backbone have."""

_BEFORE_A_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<!^)(?=[A-Z][a-z])")
"""Where Keras puts a `_` into the name of a class: `ReLU` becomes `re_lu`, `Conv2D` `conv2d`."""

Arrays = Callable[[Any], list[np.ndarray]]
StandIn = Callable[[Any], Callable[..., Any] | None]


def _own_arrays(layer: Any) -> list[np.ndarray]:
    return layer.get_weights()


def _none(layer: Any) -> None:
    return None


def _itself(image: Any) -> Any:
    return image


def flat(model: keras.Model) -> keras.Model:
    """The same network with the layers of nested models in their places.

    A model without nested ones is returned as it is.

    Raises:
        UserError: a model in it has no graph of layers.
    """
    has_nested = any(isinstance(layer, keras.Model) for layer in model.layers)
    if not has_nested and not isinstance(model, keras.Sequential):
        return model
    shape, name = tuple(model.inputs[0].shape[1:]), model.inputs[0].name
    return flat_copy(model, keras.Input(shape, name=name))


def flat_copy(
    model: keras.Model,
    image: Any,
    *,
    before: Callable[[Any], Any] = _itself,
    arrays_of: Arrays = _own_arrays,
    stand_in: StandIn = _none,
) -> keras.Model:
    """A flat copy of a network with another input.

    Args:
        image: the new input, of another size for example.
        before: what happens to it before the first layer of the network.
        arrays_of: layer -> the weights of its copy.
        stand_in: layer or operation -> a function that is called in its place, or None to copy it.

    Raises:
        UserError: as `flat`.
        ValueError: the network cannot take this input.
    """
    copies = _Copies(stand_in)
    outputs = copies.replay(model, before(image), "own_")
    for original, copy in copies.by_layer.values():
        if original.weights:
            set_weights(copy, arrays_of(original))
    return keras.Model(image, outputs, name=model.name)


def counted_from_zero(model: keras.Model) -> keras.Model:
    """The model, with its layers named as in a new process.

    Keras numbers layers without a name by how many the process has made before. So a run that was
    killed and goes on would give its layers other names than one without a pause, and so would its
    files.
    """
    by_kind: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    taken = set()
    for operation in model.operations:
        kind = _BEFORE_A_WORD.sub("_", type(operation).__name__).lower()
        match = re.fullmatch(rf"{kind}(?:_(\d+))?", operation.name)
        if match:
            by_kind[kind].append((int(match[1] or 0), operation))
        else:
            taken.add(operation.name)
    for kind, numbered in by_kind.items():
        names = (f"{kind}_{number}" if number else kind for number in itertools.count())
        free = (name for name in names if name not in taken)
        for _, operation in sorted(numbered, key=lambda item: item[0]):
            operation.name = next(free)
    return model


class _Copies:
    """Copies of layers: one of each layer, however often it is called."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        self.by_layer: dict[int, tuple[Any, Any]] = {}
        self.names = set(RESERVED)

    def replay(self, model: keras.Model, inputs: Any, prefix: str) -> Any:
        graph = model._functional if isinstance(model, keras.Sequential) else model
        if not hasattr(graph, "_run_through_graph"):
            raise UserError(
                f"model {model.name!r} ({type(model).__name__}) has no graph of layers. Expected a "
                "Keras functional model, or a sequential one with an input shape."
            )

        def enter(operation: Any) -> Callable[..., Any]:
            if isinstance(operation, keras.Model):
                return lambda x, **_: self.replay(operation, x, f"{operation.name}_")
            return self.stand_in(operation) or self.copy_of(operation, prefix)

        outputs = graph._run_through_graph(inputs, operation_fn=enter)
        # A nested model returns one tensor to the layer that reads it.
        return outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs

    def copy_of(self, layer: Any, prefix: str) -> Any:
        if not isinstance(layer, keras.Layer):
            return layer  # an operation has no weights
        if id(layer) not in self.by_layer:
            config = layer.get_config()
            if config["name"] in self.names:
                config["name"] = prefix + config["name"]
            self.names.add(config["name"])
            self.by_layer[id(layer)] = (layer, type(layer).from_config(config))
        return self.by_layer[id(layer)][1]
