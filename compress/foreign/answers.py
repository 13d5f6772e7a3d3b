"""Whether a model that was built anew answers as the one that it was built from."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.errors import UserError

NUM_TRIALS = 4
MAX_DIFFERENCE = 1e-3
"""Between the answers of the two models, as a share of the largest. Rounding makes 1e-6 of it."""


class NoCounterpart(UserError):
    """Keras 3 has nothing that answers as a part of a model does."""


def check_same_answers(answer: Callable[[np.ndarray], Any], model: keras.Model) -> None:
    """Raise NoCounterpart if the model answers differently.

    Args:
        answer: the original, from float32 images (batch, height, width, channels).
    """
    batch, *sides = (size or 64 for size in model.inputs[0].shape)
    num_images = NUM_TRIALS if model.inputs[0].shape[0] is None else batch
    rng = np.random.default_rng(0)
    for largest_pixel in (255.0, 1.0):
        images = rng.uniform(0, largest_pixel, (num_images, *sides)).astype("float32")
        originals, new = tf.nest.flatten(answer(images)), tf.nest.flatten(model(images))
        for original, answers in zip(originals, new, strict=True):
            expected = np.asarray(original, "float64")
            difference = np.abs(np.asarray(answers, "float64") - expected).max()
            if not difference <= MAX_DIFFERENCE * max(float(np.abs(expected).max()), 1e-6):
                raise NoCounterpart("a part of it answers otherwise in Keras 3")
