"""`Conversion`: one model on its way to files, and what its recipes share."""

import keras

from compress.graph.inference import TracedModel, weights_sha256
from compress.graph.kernels import INT8_STEPS
from compress.int8.calibration import CalibratedModel, Images, calibration_images
from compress.int8.equalization.equalize import Equalize


class Conversion:
    """One model on its way to files, and what its recipes share.

    Create one for each model and hand it to every recipe. The recipes then trace the model once
    and compute the gradients of its tensors once, which is half of the time that a file takes.
    When the weights of the model change, both are done again.

    Attributes:
        model: it answers with logits or probabilities.
        photos: the calibration photos; recipes without calibration need none.
    """

    def __init__(self, model: keras.Model, photos: Images = lambda: iter(())) -> None:
        self.model = model
        self.photos = photos
        self.traced = TracedModel(model)
        self._weights = ""
        self._calibrated: dict[tuple[int, int, Equalize], CalibratedModel] = {}

    def calibrated(
        self, num_images: int, kernel_steps: int = INT8_STEPS, *, equalize: Equalize = "off"
    ) -> CalibratedModel:
        """The model ready for int8, calibrated on the first photos.

        Args:
            num_images: how many photos.
            kernel_steps: the number of steps from 0 to the largest weight of a kernel.
            equalize: whether channels are scaled where that pays.

        Raises:
            UserError: there are no photos.
        """
        weights = weights_sha256(self.model)
        if weights != self._weights:
            self._weights = weights
            self._calibrated.clear()
        key = num_images, kernel_steps, equalize
        if key not in self._calibrated:
            images = calibration_images(self.photos, num_images)
            self._calibrated[key] = CalibratedModel(self.model, images, kernel_steps, equalize)
        return self._calibrated[key]
