"""The graph of a model as a list of layer calls: what each call reads, and who reads its output."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from compress.graph.classifier import input_shape_of
from compress.graph.replay import replay
from compress.graph.tensor_names import CallNames
from configs.errors import UserError


class LayerCall(NamedTuple):
    """One call of a layer or of an operation of `keras.ops`.

    Attributes:
        name: of what the call returns; unique within the model (`compress/graph/tensor_names.py`).
        inputs: all arguments, also those that are not tensors.
    """

    name: str
    layer: Any
    inputs: list[Any]
    output: Any


@dataclass
class LayerGraph:
    """The graph of a model as a flat list of layer calls in their order.

    Nested models are unfolded.
    """

    inputs: Any
    output: Any
    calls: list[LayerCall]

    @classmethod
    def of(cls, model: keras.Model) -> "LayerGraph":
        """The calls of a model, on symbolic tensors."""
        calls: list[LayerCall] = []
        names = CallNames()

        def recorded(layer: Any) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                output = layer(*args, **kwargs)
                inputs = keras.tree.flatten((args, kwargs))
                calls.append(LayerCall(names.add(layer.name), layer, inputs, output))
                return output

            return call

        inputs = keras.Input(input_shape_of(model))
        return cls(inputs, replay(model, inputs, recorded), calls)

    def writer(self, tensor: Any) -> LayerCall | None:
        """The call that returns a tensor; None for the input and for constants."""
        return next((call for call in self.calls if call.output is tensor), None)

    def readers(self, tensor: Any) -> list[LayerCall]:
        """The calls that read a tensor."""
        return [call for call in self.calls if any(read is tensor for read in call.inputs)]

    def num_calls(self, layer: Any) -> int:
        """How often a layer is called."""
        return sum(call.layer is layer for call in self.calls)

    def shared_name(self) -> str | None:
        """A name that several layers have, as in nested models. No new model can hold them all."""
        layers = {id(call.layer): call.layer.name for call in self.calls}
        counts = Counter(layers.values())
        return next((name for name, count in counts.items() if count > 1), None)

    def check_names(self, action: str) -> None:
        """Raise UserError if several layers have one name, so that no new model can be made.

        Args:
            action: what cannot be done with the model then: "lose channels".
        """
        if name := self.shared_name():
            raise UserError(
                f"the model cannot {action}: several of its layers are called {name!r} (in nested "
                "models). Give them different names, or leave the method out."
            )
