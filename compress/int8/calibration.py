"""Calibration: the photos that int8 ranges come from, and a model together with them."""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice

import keras
import numpy as np

from compress.graph.inference import TracedModel
from compress.graph.kernels import INT8_STEPS
from compress.graph.simplify import ACTIVATION, simplify
from compress.int8.bias_correction import correct_biases
from compress.int8.equalization.equalize import Equalize, equalized
from compress.int8.sensitivity import NUM_GRADIENT_IMAGES, Sensitivity, measure_sensitivities
from configs.errors import UserError
from distill.data.manifest import Examples
from eval.images import Fitting, evaluation_image

Images = Callable[[], Iterator[np.ndarray]]
"""Starts an iterator of calibration images, float32 (height, width, 3)."""


def calibration_photos(
    examples: Examples, size: tuple[int, int], fitting: Fitting | None = None
) -> Images:
    """Training photos through the evaluation view; the classes take turns.

    Args:
        examples: the training split.
        size: (height, width) of the model's input.
        fitting: how a foreign model wants photos to be fitted; None as our own.

    Returns:
        A function that starts over at the first photo. Its images are float32 (height, width, 3).
    """
    by_class = [np.flatnonzero(examples.labels == i) for i in range(len(examples.classes))]
    num_turns = max(map(len, by_class))
    order = [rows[turn] for turn in range(num_turns) for rows in by_class if turn < len(rows)]

    def images() -> Iterator[np.ndarray]:
        for index in order:
            yield evaluation_image(examples.paths[index], size, fitting).astype("float32")

    return images


def calibration_images(photos: Images, num_images: int) -> np.ndarray:
    """The first `num_images` of the calibration photos, float32 (images, height, width, 3).

    Raises:
        UserError: there are none.
    """
    images = [np.asarray(image, "float32") for image in islice(photos(), num_images)]
    if not images:
        raise UserError(
            "this needs calibration photos and got none. Give a folder of photos with --data, or "
            "choose a recipe without calibration (tflite.dynamic, tflite.float16)."
        )
    return np.stack(images)


class CalibratedModel:
    """A model that is ready for int8, and the images that it is calibrated on.

    Attributes:
        model: gives the same answers with channels of similar ranges
            (`compress/int8/equalization/`) and fewer tensors to round
            (`compress/graph/simplify.py`).
        equalized: the layers at whose outputs channels are scaled; None if that was not looked at.
        traced: the inference function of that model.
        images: float32, (images, height, width, 3), from the training split.
    """

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray,
        kernel_steps: int = INT8_STEPS,
        equalize: Equalize = "off",
    ) -> None:
        self.images = images
        self.equalized: list[str] | None = None
        self._owners: dict[str, str] = {}
        if equalize == "auto":
            model, self.equalized, self._owners = equalized(model, images)
        self.model = simplify(model)
        correct_biases(self.model, images, kernel_steps)
        self.traced = TracedModel(self.model)

    def layer_of(self, name: str) -> str:
        """The layer of the original model that a layer of `model` is, or is a part of."""
        name = name.removesuffix(ACTIVATION)
        return self._owners.get(name, name)

    @cached_property
    def sensitivities(self) -> dict[str, Sensitivity]:
        """By the names of `tensors_of` the model."""
        return measure_sensitivities(self.model, self.images[:NUM_GRADIENT_IMAGES])

    @property
    def of_bytes(self) -> bool:
        """Whether the model takes pixels as photos hold them: whole numbers from 0 to 255."""
        images = self.images
        is_whole = bool((images == np.round(images)).all())
        return is_whole and bool(images.min() >= 0 and images.max() <= 255)
