"""A model as int8 recipes convert it, with what calibration images say of it."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice

import keras
import numpy as np

from compress.graph.inference import weights_sha256
from compress.graph.rewrites import INT8_STEPS, prepared
from compress.int8.sensitivity import NUM_GRADIENT_IMAGES, Sensitivity, sensitivities
from configs.errors import UserError

Images = Callable[[], Iterator[np.ndarray]]
"""Starts an iterator of calibration images, float32 (height, width, 3)."""


class Calibrated:
    """A model ready for int8 and the images it is calibrated on.

    Attributes:
        model: the same answers in fewer tensors to round (`compress/graph/rewrites.py`).
        images: float32, (images, height, width, 3), from the training split.
    """

    def __init__(
        self, model: keras.Model, images: np.ndarray, kernel_steps: int = INT8_STEPS
    ) -> None:
        self.images = images
        self.model = prepared(model, images, kernel_steps)
        self._source = model  # kept alive, so that no other model gets its id

    @cached_property
    def sensitivities(self) -> dict[str, Sensitivity]:
        """By the names of `tensors_of` the model."""
        return sensitivities(self.model, self.images[:NUM_GRADIENT_IMAGES])

    @property
    def of_bytes(self) -> bool:
        """Whether the model takes pixels as photos hold them: whole numbers from 0 to 255."""
        some = self.images
        return bool(some.min() >= 0 and some.max() <= 255 and (some == np.round(some)).all())


_kept: dict[tuple[int, str, str, int], Calibrated] = {}


def calibrated(
    model: keras.Model, calibration: Images, num_images: int, kernel_steps: int = INT8_STEPS
) -> Calibrated:
    """A model with the first `num_images` of its calibration images.

    The last one is kept: the recipes for one model share what takes most of their time.

    Args:
        kernel_steps: that the largest weight of a kernel will have.

    Raises:
        UserError: there are no images.
    """
    images = calibration_images(calibration, num_images)
    photos = hashlib.sha256(images.tobytes()).hexdigest()
    key = id(model), weights_sha256(model), photos, kernel_steps
    if key not in _kept:
        _kept.clear()
        _kept[key] = Calibrated(model, images, kernel_steps)
    return _kept[key]


def calibration_images(calibration: Images, num_images: int) -> np.ndarray:
    """The first `num_images` of the calibration images, (images, height, width, 3) in float32.

    Raises:
        UserError: there are none.
    """
    images = [np.asarray(image, "float32") for image in islice(calibration(), num_images)]
    if not images:
        raise UserError(
            "this needs calibration photos and got none. Give a folder of photos with --data, or "
            "choose a recipe without calibration (tflite.dynamic, tflite.float16)."
        )
    return np.stack(images)
