"""Keras graphs: checked, copied, replayed, rebuilt and walked."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from configs.errors import UserError

BATCH_PIXELS = 128 * 128
"""Of a step with gradients, for which EfficientNetB0 takes a tenth of a gigabyte."""
PASSES_VALUES_ON = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Dropout)


def image_size_of(model: keras.Model) -> tuple[int, int]:
    """(height, width) in pixels of an image classifier's input.

    Raises:
        UserError: the model is no image classifier that a file can hold.
    """
    inputs = getattr(model, "inputs", None) or []
    outputs = getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise _unfit(model, f"it has {len(inputs)} inputs and {len(outputs)} outputs")
    shape, scores = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if len(shape) != 4 or shape[3] != 3:
        raise _unfit(model, f"its input has the shape {shape}")
    if shape[1] is None or shape[2] is None:
        raise _unfit(
            model,
            f"its input has the shape {shape}, without a fixed height and width; "
            "rebuild it with input_shape=(height, width, 3)",
        )
    if shape[0] not in (None, 1):
        raise _unfit(model, f"its batch is fixed at {shape[0]} images")
    if len(scores) != 2 or scores[1] is None:
        raise _unfit(model, f"its output has the shape {scores}")
    halves = {layer.compute_dtype for _, layer in named_layers(model)} & {"float16", "bfloat16"}
    if halves:
        raise _unfit(
            model,
            f"its layers compute in {halves.pop()}; rebuild it after "
            'keras.config.set_dtype_policy("float32") and give it the same weights',
        )
    return shape[1], shape[2]


def _unfit(model: keras.Model, reason: str) -> UserError:
    return UserError(
        f"model {model.name!r} cannot be written to a file: {reason}. Expected one input "
        "(batch, height, width, 3) and one output (batch, classes), as in a Keras functional "
        "or sequential image classifier."
    )


def copy_of(model: keras.Model) -> keras.Model:
    """A model with the same graph, weights and outputs that shares nothing with `model`."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for _, layer in named_layers(copy):
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()  # its constants were computed before the weights came
    return copy


def named_layers(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Every layer that is not a model itself, under a name unique also across nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from named_layers(layer, f"{prefix}{layer.name}.")
        else:
            yield prefix + layer.name, layer


def replay(model: keras.Model, inputs: Any, stand_in: Callable[[keras.Layer], Callable]) -> Any:
    """The outputs of the model's graph when other functions stand in for its layers.

    Nested models are entered, so stand-ins are asked for plain layers only.

    Args:
        inputs: what the first stand-in gets.
        stand_in: layer -> function of the layer's arguments; asked once for each use.

    Raises:
        UserError: the model, or one nested in it, keeps no graph of its layers.
    """

    def enter(operation: Any) -> Callable:
        if isinstance(operation, keras.Model):
            return lambda *args, **kwargs: replay(operation, args[0], stand_in)
        return stand_in(operation)

    graph = model._functional if isinstance(model, keras.Sequential) else model
    if not hasattr(graph, "_run_through_graph"):
        raise UserError(
            f"model {model.name!r} ({type(model).__name__}) keeps no graph of its layers. "
            "Expected a Keras functional model, or a sequential one with an input shape."
        )
    return graph._run_through_graph(inputs, operation_fn=enter)


def batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """Images in batches whose every tensor fits into memory together."""
    size = max(BATCH_PIXELS // (images.shape[1] * images.shape[2]), 1)
    for start in range(0, len(images), size):
        yield images[start : start + size]


def rebuilt(
    model: keras.Model,
    stand_in: Callable[[keras.Layer], Callable],
    ahead: Callable[[Any], Any] = lambda image: image,
) -> keras.Model:
    """A new model with other functions for some of its layers.

    Args:
        stand_in: as for `replay`; a layer that stays is its own stand-in.
        ahead: what is done to the images ahead of all layers.
    """
    inputs = keras.Input((*image_size_of(model), 3), name=model.inputs[0].name)
    outputs = replay(model, ahead(inputs), stand_in)
    # A copy's layers know of one call each, and of no other model.
    return copy_of(keras.Model(inputs, outputs, name=model.name))


class Use(NamedTuple):
    """One call of a layer."""

    layer: Any
    inputs: list[Any]
    output: Any


@dataclass
class Graph:
    """A model as a flat list of calls, in their order."""

    inputs: Any
    output: Any
    uses: list[Use]

    @classmethod
    def of(cls, model: keras.Model) -> "Graph":
        uses: list[Use] = []

        def noted(layer: Any) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                output = layer(*args, **kwargs)
                uses.append(Use(layer, keras.tree.flatten((args, kwargs)), output))
                return output

            return call

        inputs = keras.Input((*image_size_of(model), 3))
        return cls(inputs, replay(model, inputs, noted), uses)

    def maker(self, tensor: Any) -> Use | None:
        return next((use for use in self.uses if use.output is tensor), None)

    def readers(self, tensor: Any) -> list[Use]:
        return [use for use in self.uses if any(given is tensor for given in use.inputs)]

    def shared_name(self) -> str | None:
        """A name that several layers have, as in nested models: no new model can hold them all."""
        layers = {id(use.layer): use.layer.name for use in self.uses}
        counts = Counter(layers.values())
        return next((name for name, count in counts.items() if count > 1), None)

    def check_names(self, action: str) -> None:
        """Raise UserError where several layers have one name and no new model can be made.

        Args:
            action: what the model then cannot: "lose channels".
        """
        if name := self.shared_name():
            raise UserError(
                f"the model cannot {action}: several of its layers are called {name!r} (in nested "
                "models). Give them names of their own, or leave the method out."
            )

    def num_uses(self, layer: Any) -> int:
        return sum(use.layer is layer for use in self.uses)
