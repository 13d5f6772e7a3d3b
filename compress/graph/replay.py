"""Keras models copied, and replayed with other functions in place of some layers."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from configs.errors import UserError

BATCH_PIXELS = 128 * 128
"""Pixels in a batch with gradients. EfficientNetB0 takes a tenth of a gigabyte for them."""


def copy_model(model: keras.Model) -> keras.Model:
    """A model with the same graph, weights and outputs that shares nothing with `model`."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for _, layer in named_layers(copy):
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()  # it computed its constants before it got its weights
    return copy


def copy_layer(layer: Any, **changes: Any) -> Any:
    """A copy of a layer with its weights, and with changes in its configuration."""
    copy = type(layer).from_config({**layer.get_config(), **changes})
    copy.build(layer.get_build_config()["input_shape"])
    copy.set_weights(layer.get_weights()[: len(copy.weights)])
    return copy


def named_layers(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Every layer that is not a model itself, with a name that is unique across nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from named_layers(layer, f"{prefix}{layer.name}.")
        else:
            yield prefix + layer.name, layer


def replay(model: keras.Model, inputs: Any, stand_in: Callable[[keras.Layer], Callable]) -> Any:
    """The outputs of the graph of a model when other functions stand in for its layers.

    The layers of nested models are replaced too; `stand_in` never gets a model.

    Args:
        inputs: what the first stand-in reads.
        stand_in: layer -> function that is called with the arguments of the layer. It is called
            once for every call of the layer.

    Raises:
        UserError: the model, or a model nested in it, has no graph of layers.
    """

    def enter(operation: Any) -> Callable:
        if isinstance(operation, keras.Model):
            return lambda *args, **kwargs: replay(operation, args[0], stand_in)
        return stand_in(operation)

    graph = model._functional if isinstance(model, keras.Sequential) else model
    if not hasattr(graph, "_run_through_graph"):
        raise UserError(
            f"model {model.name!r} ({type(model).__name__}) has no graph of layers. Expected a "
            "Keras functional model, or a sequential one with an input shape."
        )
    return graph._run_through_graph(inputs, operation_fn=enter)


def rebuild_model(
    model: keras.Model,
    stand_in: Callable[[keras.Layer], Callable],
    before: Callable[[Any], Any] = lambda image: image,
) -> keras.Model:
    """A new model in which other functions stand in for some layers.

    Args:
        model: an image classifier with a fixed input size.
        stand_in: as for `replay`; a layer that stays stands in for itself.
        before: what the new model does with the image before its first layer.
    """
    inputs = keras.Input(tuple(model.inputs[0].shape[1:]), name=model.inputs[0].name)
    outputs = replay(model, before(inputs), stand_in)
    # The layers of a copy have one call each and belong to no other model.
    return copy_model(keras.Model(inputs, outputs, name=model.name))


def small_batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """Images in batches so small that all tensors of a model fit into memory together."""
    size = max(BATCH_PIXELS // (images.shape[1] * images.shape[2]), 1)
    for start in range(0, len(images), size):
        yield images[start : start + size]
