"""Keras models that only answer: with constants for their weights, TensorFlow is faster."""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Answers = Callable[[np.ndarray], np.ndarray]
"""Images, (batch, ...) -> the outputs of a model, (batch, ...)."""

MAX_FROZEN_BYTES = 2**30
"""Models with larger weights are not frozen: TensorFlow's graphs hold 2 GB at most."""

NUMBERS_AT_ONCE = 3 * 2**19
"""About as many numbers of pixels are answered together: 32 photos of 128 px, or 4 of 380 px.

Larger batches leave the caches of a CPU. B4 at 380 px takes 0.9 of the time of a batch of 8.
"""


def answers_of(model: keras.Model) -> Answers:
    """A function that answers as `model.predict_on_batch` does, for a model that learns no more.

    With weights that are constants, TensorFlow folds scales and statistics of BatchNormalization
    into the kernels, once. On a CPU, it then takes three quarters of the time (docs/RESULTS.md).

    The function is `predict_on_batch` itself under another backend, for weights of more than
    MAX_FROZEN_BYTES, and where Keras compiles models with XLA, as on a GPU.

    The function keeps a copy of the weights that the model has when it is first called. The copy
    is freed with the function.
    """
    if not _can_freeze(model):
        return lambda images: np.asarray(model.predict_on_batch(images))

    # Only the latest shape is kept, because every shape has its own copy of the weights.
    @functools.lru_cache(maxsize=1)
    def frozen(shape: tuple[int, ...]) -> Any:
        return _freeze(model, shape)

    def answer(images: np.ndarray) -> np.ndarray:
        num_parts = math.ceil(images.size / NUMBERS_AT_ONCE)
        parts = np.array_split(images, min(max(num_parts, 1), max(len(images), 1)))
        answer_part = frozen(images.shape[1:])
        outputs = [np.asarray(answer_part(tf.constant(part, tf.float32))) for part in parts]
        return np.concatenate(outputs)

    return answer


def _can_freeze(model: keras.Model) -> bool:
    if keras.backend.backend() != "tensorflow" or model.jit_compile:
        return False
    num_outputs = len(getattr(model, "outputs", None) or [])
    return num_outputs == 1 and 4 * model.count_params() <= MAX_FROZEN_BYTES


def _freeze(model: keras.Model, shape: tuple[int, ...]) -> Any:
    """The inference of a model for images of one shape, as a TensorFlow function.

    The model is traced with its weights as inputs, and constants then take their place. To trace
    it with constants would be simpler. But TensorFlow never frees the graph of a traced swish.
    """
    variables = model.variables

    @tf.function(autograph=False)
    def infer(images: tf.Tensor, values: list[tf.Tensor]) -> tf.Tensor:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return model(images, training=False)

    image_spec = tf.TensorSpec((None, *shape), tf.float32)
    traced = infer.get_concrete_function(
        image_spec, [tf.TensorSpec(variable.shape, variable.dtype) for variable in variables]
    )
    graph_def = traced.graph.as_graph_def()
    input_names = [tensor.name for tensor in traced.inputs]
    (output,) = traced.outputs
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    # What the trace captures besides, such as the mean of a Normalization layer.
    captured = traced.captured_inputs

    @tf.function(autograph=False, input_signature=[image_spec])
    def answer(images: tf.Tensor) -> tf.Tensor:
        inputs = [images, *map(tf.constant, values), *map(tf.identity, captured)]
        (outputs,) = tf.graph_util.import_graph_def(
            graph_def,
            input_map=dict(zip(input_names, inputs, strict=True)),
            return_elements=[output.name],
        )
        return outputs

    return answer.get_concrete_function()
