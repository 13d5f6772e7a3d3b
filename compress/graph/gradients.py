"""The tensors of a model and the gradients of its answers with respect to them."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compress.graph.classifier import output_function
from compress.graph.replay import replay, small_batches
from compress.graph.tensor_names import INPUT, CallNames
from configs.errors import UserError

Visit = Callable[[str, np.ndarray, np.ndarray], None]
"""Gets the name of a tensor, its values and its gradient; both are (batch, ...)."""


def tensors_of(
    model: keras.Model,
    images: np.ndarray | tf.Tensor,
    tap: Callable[[str, tf.Tensor], tf.Tensor] = lambda name, tensor: tensor,
) -> dict[str, tf.Tensor]:
    """The images and what every layer returns, in order, by name (`tensor_names.py`).

    Args:
        images: (batch, height, width, 3).
        tap: gets every tensor with its name and returns the tensor that the next layers read.
    """
    tensors: dict[str, tf.Tensor] = {INPUT: tap(INPUT, tf.convert_to_tensor(images))}
    names = CallNames()

    def recorded(layer: Any) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            output, name = layer(*args, **kwargs), names.add(layer.name)
            if not (tf.is_tensor(output) and output.dtype.is_floating):
                return output
            tensors[name] = tap(name, output)
            return tensors[name]

        return call

    replay(model, tensors[INPUT], recorded)
    return tensors


def visit_gradients(
    model: keras.Model,
    images: np.ndarray,
    rng: np.random.Generator,
    visit: Visit,
    only: Collection[str] | None = None,
) -> None:
    """Call `visit` with every tensor and the gradient of log p(class).

    The class is drawn by its probability p, once for each image. Tensors are visited one after the
    other while gradients flow back, so they need not all stay in memory.

    Args:
        images: (images, height, width, 3); they are taken in batches.
        only: names of the tensors to visit; None visits all.

    Raises:
        UserError: the model answers with nan or inf.
    """
    # TensorFlow never frees functions that are called from a graph, so they must not hold `visit`.
    visitors = [visit]
    gradients_of = _gradient_function(model, rng, visitors, only)
    try:
        for batch in small_batches(images):
            if not np.isfinite(gradients_of(tf.convert_to_tensor(batch))).all():
                raise UserError(
                    f"model {model.name!r} answers calibration photos with values that are no "
                    "numbers (nan or inf), so its int8 ranges cannot be chosen. Check its "
                    "training, or --pixels."
                )
    finally:
        visitors.clear()


def _gradient_function(
    model: keras.Model,
    rng: np.random.Generator,
    visitors: list[Visit],
    only: Collection[str] | None,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that shows the visitor the gradients of a batch; it returns the probabilities."""
    to_probabilities = output_function(model, "probabilities")

    def show(name: str, values: np.ndarray, gradient: np.ndarray) -> None:
        visitors[0](name, values, gradient)

    # Traced: eager tensors of a model would all live until its last layer is done.
    @tf.function(autograph=False)
    def gradients_of(batch: tf.Tensor) -> tf.Tensor:
        watched: dict[str, tf.Tensor] = {}

        def tap(name: str, tensor: tf.Tensor) -> tf.Tensor:
            if only is None or name in only:
                tensor = watched[name] = tf.identity(tensor)
            return tensor

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch)
            *_, outputs = tensors_of(model, batch, tap).values()
            probs = to_probabilities(tf.cast(outputs, tf.float32))
            classes = tf.numpy_function(partial(_draw_classes, rng), [probs], tf.int64)
            classes = tf.ensure_shape(classes, batch.shape[:1])
            log_probs = tf.math.log(tf.gather(probs, classes, batch_dims=1) + 1e-12)
            total = tf.reduce_sum(log_probs)
        gradients = tape.gradient(total, watched)
        for name in reversed(watched):
            if gradients[name] is not None:
                tf.numpy_function(partial(show, name), [watched[name], gradients[name]], [])
        return probs

    return gradients_of


def _draw_classes(rng: np.random.Generator, probs: np.ndarray) -> np.ndarray:
    """A class for each row, drawn by its probability; any class if those are no numbers."""
    rows = (probs if np.isfinite(probs).all() else np.ones_like(probs)).astype("float64")
    return np.array([rng.choice(len(row), p=row / row.sum()) for row in rows])
