"""The inference of a model as a TensorFlow function, which converters turn into files."""

import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compress.graph.classifier import input_shape_of, output_function
from compress.graph.tensor_names import INPUT
from configs.schema.files import OutputKind


class TracedModel:
    """A model with its inference function, which is traced once for all files of the model."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._traced: tuple[tuple[str, str], Any] | None = None

    def function(self, output: OutputKind) -> Any:
        """The inference of the model as a TensorFlow function that reads the model's weights.

        It is traced again if the weights have changed or another output is needed.

        Returns:
            A function of `image`, (1, height, width, 3), to (1, classes).
        """
        key = weights_sha256(self.model), output
        if self._traced is None or self._traced[0] != key:
            self._traced = key, _trace(self.model, output)
        return self._traced[1]

    def frozen_function(self, output: OutputKind) -> Any:
        """The same function with constants in place of the weights.

        Freezing also turns the constants of Normalization layers into plain constants; tf2onnx
        would otherwise take them for hidden inputs. TFLiteConverter freezes by itself. It would
        freeze a frozen function again, which takes 0.1 GB more.
        """
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        # tf2onnx reads loops as they are, and cannot once they are lowered to jumps.
        return convert_variables_to_constants_v2(self.function(output), lower_control_flow=False)


def _trace(model: keras.Model, output: OutputKind) -> Any:
    """A concrete function with a static batch of 1.

    With Keras' dynamic batch the runtimes would split EfficientNetB0 into 17 pieces.
    """
    shape = input_shape_of(model)
    answers = output_function(model, output)

    @tf.function(autograph=False)
    def infer(image: tf.Tensor) -> tf.Tensor:
        return answers(tf.cast(model(image, training=False), tf.float32))

    signature = tf.TensorSpec((1, *shape), tf.float32, name=INPUT)
    # Keras compiles grouped convolutions with XLA, as a function inside this one. tf2onnx cannot
    # read a call of it, and in TFLite its tensors lose the names of their layers.
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return infer.get_concrete_function(signature)
    finally:
        tf.config.run_functions_eagerly(eagerly)


def weights_sha256(model: keras.Model) -> str:
    """The digest of all weights."""
    contents = hashlib.sha256()
    for weights in model.get_weights():
        contents.update(np.ascontiguousarray(weights).tobytes())
    return contents.hexdigest()
