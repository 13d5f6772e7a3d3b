"""What the files of a model compute: one image in, scores of classes out."""

import contextlib
import hashlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compress.graph.graph import PASSES_VALUES_ON, image_size_of
from configs.errors import StepFailed, UserError
from eval.devices.probe import open_model

INPUT = "image"
OUTPUTS = ("probabilities", "logits")
MAX_PARITY_DIFF = 1e-3
"""A float file further from its model than this is broken; rounding explains about 1e-5."""


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


def weights_sha256(model: keras.Model) -> str:
    """The digest of all weights."""
    contents = hashlib.sha256()
    for weights in model.get_weights():
        contents.update(np.ascontiguousarray(weights).tobytes())
    return contents.hexdigest()


class TracedModel:
    """A model with its inference function, which is traced once for all files of the model."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._traced: tuple[tuple[str, str], Any] | None = None

    def function(self, output: str) -> Any:
        """The inference of the model as a TensorFlow function that reads the model's weights.

        It is traced again when the weights have changed or another output is needed.

        Args:
            output: "probabilities" or "logits".

        Returns:
            A function of `image`, (1, height, width, 3), to (1, classes).
        """
        key = weights_sha256(self.model), output
        if self._traced is None or self._traced[0] != key:
            self._traced = key, _trace(self.model, output)
        return self._traced[1]

    def frozen_function(self, output: str) -> Any:
        """The same function with constants in place of the weights.

        Freezing also turns the constants of Normalization layers into plain constants; tf2onnx
        would otherwise take them for hidden inputs. TFLiteConverter freezes by itself. It would
        freeze a frozen function again, which takes 0.1 GB more.
        """
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        return convert_variables_to_constants_v2(self.function(output))


def _trace(model: keras.Model, output: str) -> Any:
    """A concrete function with a static batch of 1.

    With Keras' dynamic batch the runtimes would split EfficientNetB0 into 17 pieces.
    """
    height, width = image_size_of(model)
    finish = output_function(model, output)

    @tf.function(autograph=False)
    def infer(image: tf.Tensor) -> tf.Tensor:
        return finish(tf.cast(model(image, training=False), tf.float32))

    signature = tf.TensorSpec((1, height, width, 3), tf.float32, name=INPUT)
    return infer.get_concrete_function(signature)


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
