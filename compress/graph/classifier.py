"""A Keras model as an image classifier: the size of its input, and what its outputs mean."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from compress.graph.replay import named_layers
from configs.contract import Answers
from configs.errors import UserError
from configs.schema.files import OutputKind

PASSES_VALUES_ON = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Dropout)
"""Layers that return the values that they read."""


@keras.saving.register_keras_serializable("potstill")
class DeclaredAnswers(keras.layers.Layer):
    """Passes answers on, and says what they are where no activation does.

    Args:
        answers: as in an `InputContract`.
    """

    def __init__(self, answers: Answers, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answers = answers

    def call(self, x: Any) -> Any:
        return x

    @property
    def activation_name(self) -> str:
        """The activation that would return such answers."""
        if self.answers == "logits":
            return "linear"
        return "softmax" if self.answers == "probabilities" else "sigmoid"

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "answers": self.answers}


def image_size_of(model: keras.Model) -> tuple[int, int]:
    """(height, width) of the input of an image classifier, in pixels.

    Raises:
        UserError: as `input_shape_of`.
    """
    return input_shape_of(model)[:2]


def input_shape_of(model: keras.Model) -> tuple[int, int, int]:
    """(height, width, channels) of the input of an image classifier; 3 channels, or 1 for grey.

    Raises:
        UserError: the model is not an image classifier that a file can hold.
    """
    inputs = getattr(model, "inputs", None) or []
    outputs = getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise _unfit(model, f"it has {len(inputs)} inputs and {len(outputs)} outputs")
    shape, scores = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if len(shape) != 4 or shape[3] not in (1, 3):
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
    types = {layer.compute_dtype for _, layer in named_layers(model)}
    if half_types := types & {"float16", "bfloat16"}:
        raise _unfit(
            model,
            f"its layers compute in {half_types.pop()}; rebuild it after "
            'keras.config.set_dtype_policy("float32") and give it the same weights',
        )
    return shape[1], shape[2], shape[3]


def _unfit(model: keras.Model, reason: str) -> UserError:
    return UserError(
        f"model {model.name!r} cannot be written to a file: {reason}. Expected one input "
        "(batch, height, width, 3 or 1) and one output (batch, classes), as in a Keras functional "
        "or sequential image classifier."
    )


def last_activation(model: keras.Model) -> str:
    """The name of the activation that makes the outputs ("softmax"; "linear" for logits)."""
    tensor = model.outputs[0]
    while True:
        layer, node_index, _ = tensor._keras_history
        if isinstance(layer, keras.Model):
            return last_activation(layer)
        if not isinstance(layer, PASSES_VALUES_ON):
            break
        tensor = layer._inbound_nodes[node_index].input_tensors[0]
    if isinstance(layer, DeclaredAnswers):
        return layer.activation_name
    if type(layer).__name__ in ("Softmax", "Sigmoid"):  # a layer, or an operation of keras.ops
        return type(layer).__name__.lower()
    return getattr(getattr(layer, "activation", None), "__name__", "linear")


def has_scores(model: keras.Model) -> bool:
    """Whether the outputs are independent probabilities of several classes."""
    return last_activation(model) == "sigmoid" and model.outputs[0].shape[-1] > 1


def output_function(model: keras.Model, output: OutputKind) -> Callable[[Any], Any]:
    """A function from the outputs of the model to the answers of its files.

    Outputs that are probabilities already do not change. A two-class Keras model may end in a
    single score, which is that of the second class; its files return both classes.

    Returns:
        A function of (batch, scores) to (batch, classes).

    Raises:
        UserError: the files should return logits, and the model ends in probabilities.
    """
    activation = last_activation(model)
    is_single = model.outputs[0].shape[-1] == 1
    if activation in ("softmax", "sigmoid"):
        if output == "logits":
            raise UserError(
                f"model {model.name!r} ends in {activation}, so its files cannot return logits. "
                "Set output: probabilities."
            )
        return (lambda p: tf.concat([1.0 - p, p], axis=-1)) if is_single else tf.identity
    logits = (lambda z: tf.concat([tf.zeros_like(z), z], axis=-1)) if is_single else tf.identity
    return logits if output == "logits" else lambda z: tf.nn.softmax(logits(z))
