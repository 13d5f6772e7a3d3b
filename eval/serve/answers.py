"""What a model file says about photos: the answers of `evaluate predict` and of the service."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from configs.errors import UserError
from configs.records import to_json
from eval.contract.choice import NO_CHOICE, ContractChoice, contract_of
from eval.contract.file_contract import describe, open_under
from eval.devices.probe import Model
from eval.images import evaluation_image
from eval.photo_files import PhotoSource, UnreadablePhoto
from eval.scoring.class_counts import number_of_classes
from eval.scoring.predictions import model_outputs
from eval.scoring.probabilities import as_probabilities

log = logging.getLogger("potstill")


@dataclass(frozen=True)
class ClassAnswer:
    """How likely a photo shows a class."""

    name: Annotated[str, Field(alias="class")]
    probability: float


@dataclass(frozen=True)
class PhotoAnswers:
    """What a file says about one photo.

    Attributes:
        accepted: whether the best class reaches the threshold; None where the file has none.
        classes: all of them, by falling probability.
    """

    accepted: bool | None
    classes: tuple[ClassAnswer, ...]


class FileAnswers:
    """A model file that answers about photos. Several threads may ask it.

    Attributes:
        contract: what the file expects of a photo.
        metadata: of the file; None without.
        classes: their names in the order of the answers; numbers where nobody knows names.
        image_size: height and width of the input, in pixels.
        takes_floats: whether the input is float32.
        runtime: what runs the file, with its version.

    Raises:
        UserError: the file is missing or no model, or does not fit what the user says of it.
    """

    def __init__(self, path: Path, choice: ContractChoice = NO_CHOICE) -> None:
        self.path = path
        self.metadata = describe(path, choice.statement.output_layer)
        self.contract = contract_of(path, self.metadata, choice)
        log.info("%s: contract: %s", path.name, self.contract.line)
        model = open_under(path, self.contract)
        num_classes = number_of_classes(model.num_classes)
        self.classes = list(self.contract.labels or map(str, range(num_classes)))
        self.image_size = model.input_shape[:2]
        self.takes_floats = model.input.dtype == "float32"
        self.runtime = f"{model.runtime} {model.runtime_version}"
        # A model has one input, so each thread takes one for itself.
        self._idle: SimpleQueue[Model] = SimpleQueue()
        self._idle.put(model)

    @contextmanager
    def _model(self) -> Iterator[Model]:
        try:
            model = self._idle.get_nowait()
        except Empty:
            model = open_under(self.path, self.contract)
        try:
            yield model
        finally:
            self._idle.put(model)

    def image(self, photo: PhotoSource) -> np.ndarray:
        """The photo as the file sees it: uint8, (height, width, channels).

        Raises:
            UnreadablePhoto: it is damaged or not a photo.
        """
        return evaluation_image(photo, self.image_size, self.contract)

    def answers(self, images: Sequence[np.ndarray]) -> tuple[list[PhotoAnswers], float]:
        """What the file says about each image, and how many milliseconds that took.

        Raises:
            UserError: the file cannot take these pixels.
            StepFailed: it answers with NaN or infinity.
        """
        with self._model() as model:
            start = time.perf_counter()
            batches = [image[None] for image in images]
            outputs, kind = model_outputs(model, self.path, batches, self.contract)
            ms = 1000 * (time.perf_counter() - start)
        # Independent scores do not add up to one.
        probs = outputs if kind == "scores" else as_probabilities(outputs, kind)
        return [self._answers(row) for row in probs], ms

    def _answers(self, probs: np.ndarray) -> PhotoAnswers:
        threshold = self.metadata.threshold if self.metadata else None
        order = np.argsort(-probs, kind="stable")
        return PhotoAnswers(
            accepted=bool(probs.max() >= threshold.score) if threshold else None,
            classes=tuple(ClassAnswer(self.classes[i], float(probs[i])) for i in order),
        )


def predict_photos(
    file: Path, photos: Sequence[Path], *, choice: ContractChoice = NO_CHOICE
) -> list[dict[str, Any]]:
    """The classes of each photo by falling probability, and whether the best one is accepted.

    `accepted` is None where the file carries no threshold.
    """
    model = FileAnswers(file, choice)
    images = []
    for photo in photos:
        if not photo.is_file():
            raise UserError(f"{photo} does not exist. Expected a photo.")
        try:
            images.append(model.image(photo))
        except UnreadablePhoto as error:
            raise UserError(f"this is no photo that can be read: {error}.") from None
    answers, _ = model.answers(images)
    return [
        {"photo": str(photo), "accepted": said.accepted, "answers": to_json(list(said.classes))}
        for photo, said in zip(photos, answers, strict=True)
    ]
