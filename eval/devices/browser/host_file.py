"""A model file on this machine: the numbers that a browser needs, and the answers to compare."""

from pathlib import Path

import numpy as np

from configs.artifacts import ending
from configs.errors import StepFailed, UserError
from eval.contract.file_contract import file_contract
from eval.devices.probe import ModelFileError, open_model, weight_files
from eval.metadata import read_metadata

DTYPES = {
    ".tflite": ("float32", "int32", "uint8"),
    ".onnx": ("float32", "int32", "uint8", "int8"),
}
"""Types of the input that a browser's runtime takes, by the ending of a file."""
MAX_DIFFERENCE = 0.1
"""How far the answers of a browser may lie from those of this machine, as a share of the range of
these. Kernels round differently, and a graphics processor may compute in half precision."""
INT8_STEPS = 2 / 256
"""A difference that is allowed in any case: two steps of a probability with 8 bits."""


class HostFile:
    """One file.

    Attributes:
        shape: of the tensor that it takes, batch included.
        dtype: of this tensor.

    Raises:
        UserError: it is no model that can be run here, or none that a browser can load.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            model, parts = open_model(file), weight_files(file)
        except ModelFileError as error:
            raise UserError(f"{file} is not a model that can be run here: {error}") from None
        if parts:
            raise UserError(
                f"{file}: its weights are in a second file, and a browser loads one. Export it "
                "again as a single file."
            )
        self.dtype = model.input.dtype
        for what, edge in (("input", model.input), ("output", model.output)):
            if edge.dtype not in DTYPES[ending(file)]:
                raise UserError(
                    f"{file}: its {what} is {edge.dtype}, and the runtime of browsers takes "
                    f"{', '.join(DTYPES[ending(file)])}. Write it with float32 at its edges."
                )
        self._model = model
        self.batch = model.batch
        blank = np.zeros(model.input_shape, "float32")
        self.shape = list(self._ordered(blank).shape)

    def tensor(self, image: np.ndarray) -> bytes:
        """One image as the file takes it: its numbers in the order of `shape`.

        Args:
            image: float32, (height, width, channels).
        """
        return np.ascontiguousarray(self._model.input.encoded(self._ordered(image))).tobytes()

    def answer(self, numbers: list[float]) -> np.ndarray:
        """The answer to that image, float32 (classes,), from the numbers that the file returned.

        Raises:
            StepFailed: they are not as many as this file returns, or no numbers.
        """
        answer = self._model.output.decoded(np.array(numbers, "float32"))
        expected = self.batch * self._model.num_classes
        if answer.size != expected or not np.isfinite(answer).all():
            raise StepFailed(
                f"{self.file} answered in the browser with {answer.size} numbers, some of them "
                f"no numbers at all; expected {expected}. This browser cannot run it."
            )
        return answer[: self._model.num_classes]

    def examples(self) -> np.ndarray:
        """Images to compare answers with, float32 (n, height, width, channels) as it takes them.

        They are noise, ramps and a dark square: a file that reads its pixels in another order, or
        rounds elsewhere, answers differently to at least one of them.
        """
        height, width, channels = self._model.input_shape
        across = np.linspace(0, 255, width)[None, :, None]
        down = np.linspace(0, 255, height)[:, None, None]
        square = np.full((height, width, channels), 220.0)
        square[height // 4 : height // 2, width // 8 : width // 2] = (30.0, 90.0, 10.0)[:channels]
        views = [
            np.random.default_rng(0).uniform(0, 255, (height, width, channels)),
            (across + down) / 2 * np.array([1.0, 0.6, 0.1])[:channels],
            square,
        ]
        contract = file_contract(
            self.file,
            read_metadata(self.file, self._model.num_classes),
            num_channels=channels,
            num_classes=self._model.num_classes,
            answers=self._model.answers,
        )
        return contract.apply(np.stack(views).round().astype("uint8"))

    def compare(self, images: np.ndarray, answers: np.ndarray) -> None:
        """Compare the answers of a browser with those of this machine.

        Args:
            images: as of `examples`.
            answers: float32, (n, classes).

        Raises:
            StepFailed: they differ by more than is allowed.
        """
        here = self._model.predict(images)
        allowed = max(MAX_DIFFERENCE * float(here.max() - here.min()), INT8_STEPS)
        difference = float(np.abs(answers - here).max())
        if difference > allowed:
            raise StepFailed(
                f"{self.file} answers differently in the browser: by {difference:.2g}, where at "
                f"most {allowed:.2g} was expected. The times of wrong answers mean nothing, so it "
                "is not measured. Try another browser, without WebGPU, or the other format."
            )

    def _ordered(self, image: np.ndarray) -> np.ndarray:
        images = np.repeat(image[None], self.batch, axis=0)
        return images.transpose(0, 3, 1, 2) if self._model.channels_first else images
