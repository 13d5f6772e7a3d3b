"""Keras graphs: what is checked, frozen, copied and replayed before anything is written."""

import contextlib
import hashlib
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from configs.errors import StepFailed, UserError
from eval.probe import open_model

INPUT = "image"
OUTPUTS = ("probabilities", "logits")
MAX_PARITY_DIFF = 1e-3
"""A float file further from its model than this is broken; rounding explains about 1e-5."""
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


def last_activation(model: keras.Model) -> str:
    """Name of the activation that makes the model's outputs ("softmax"; "linear" for logits)."""
    tensor = model.outputs[0]
    while True:
        layer, node_index, _ = tensor._keras_history
        if isinstance(layer, keras.Model):
            return last_activation(layer)
        if not isinstance(layer, PASSES_VALUES_ON):
            break
        tensor = layer._inbound_nodes[node_index].input_tensors[0]
    if type(layer).__name__ in ("Softmax", "Sigmoid"):  # the layer, or keras.ops' operation
        return type(layer).__name__.lower()
    return getattr(getattr(layer, "activation", None), "__name__", "linear")


def output_function(model: keras.Model, output: str) -> Callable[[Any], Any]:
    """What turns the model's outputs into what a file returns.

    Outputs that are probabilities already are passed on. A single score, as two-class Keras
    models end in, becomes two classes: the score is the second one's.

    Args:
        output: "probabilities" or "logits".

    Returns:
        A function of (batch, scores) to (batch, classes).

    Raises:
        UserError: logits are asked of a model that ends in probabilities.
    """
    assert output in OUTPUTS, output
    activation = last_activation(model)
    single = model.outputs[0].shape[-1] == 1
    if activation in ("softmax", "sigmoid"):
        if output == "logits":
            raise UserError(
                f"model {model.name!r} ends in {activation}, so its files cannot return logits. "
                "Ask for output: probabilities."
            )
        return (lambda p: tf.concat([1.0 - p, p], axis=-1)) if single else tf.identity
    two_classes = (lambda z: tf.concat([tf.zeros_like(z), z], axis=-1)) if single else tf.identity
    return two_classes if output == "logits" else lambda z: tf.nn.softmax(two_classes(z))


_kept: dict[tuple[int, str, str], tuple[keras.Model, Any]] = {}


def weights_sha256(model: keras.Model) -> str:
    """The digest of all weights."""
    contents = hashlib.sha256()
    for weights in model.get_weights():
        contents.update(np.ascontiguousarray(weights).tobytes())
    return contents.hexdigest()


def inference_function(model: keras.Model, output: str) -> Any:
    """The model's inference as a TensorFlow function that reads the model's weights.

    The last one is kept: the files of one model share it.

    The batch is 1 and static: with Keras' dynamic batch EfficientNetB0 falls into 17 pieces for
    the runtimes.

    Returns:
        A function of `image`, (1, height, width, 3), to (1, classes).
    """
    key = id(model), weights_sha256(model), output
    if key not in _kept:
        _kept.clear()
        # With the model, so that no other one gets its id.
        _kept[key] = model, _traced(model, output)
    return _kept[key][1]


def _traced(model: keras.Model, output: str) -> Any:
    height, width = image_size_of(model)
    finish = output_function(model, output)

    @tf.function(autograph=False)
    def infer(image: tf.Tensor) -> tf.Tensor:
        return finish(tf.cast(model(image, training=False), tf.float32))

    signature = tf.TensorSpec((1, height, width, 3), tf.float32, name=INPUT)
    return infer.get_concrete_function(signature)


def frozen_function(model: keras.Model, output: str) -> Any:
    """The same with constants for weights.

    Freezing also turns the constants that Normalization layers hold, which tf2onnx else takes for
    hidden inputs, into plain constants. TFLiteConverter freezes by itself, and with 0.1 GB more
    does so again to what is frozen.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(inference_function(model, output))


@contextlib.contextmanager
def quiet_converters() -> Iterator[None]:
    """Keep what converters say off standard output, and their notes out of the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def check_parity(
    model: keras.Model, path: Path, images: np.ndarray, *, output: str = "probabilities"
) -> float:
    """Largest difference between the outputs of a float file and those of its model.

    Args:
        images: float32, (batch, height, width, 3).

    Raises:
        StepFailed: the file does not compute what the model computes.
    """
    outputs = model.predict_on_batch(images)
    expected = output_function(model, output)(tf.constant(outputs, tf.float32)).numpy()
    difference = float(np.abs(open_model(path).predict(images) - expected).max())
    if not difference <= MAX_PARITY_DIFF:
        raise StepFailed(
            f"{path} differs from its Keras model by up to {difference:.2g} in its {output} "
            f"(at most {MAX_PARITY_DIFF:g} expected). Do not ship it; the conversion went wrong."
        )
    return difference


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
