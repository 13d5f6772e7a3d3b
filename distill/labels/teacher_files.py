"""Teachers given as files: Keras models, SavedModels, ONNX and TFLite files."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.artifacts import ending
from configs.contract import InputContract, TeacherFile, settled
from configs.errors import UserError
from distill.frozen import answers_of
from distill.model_file import load_model
from distill.saved_model import open_saved_model
from eval.contract.file_contract import file_contract
from eval.contract.foreign_metadata import labels_beside
from eval.devices.probe import Model, ModelFileError, open_model
from eval.metadata import class_name, read_metadata
from eval.scoring.class_counts import number_of_classes
from eval.scoring.probabilities import two_classes

SMALLEST_PROBABILITY = 1e-7
"""Stands for a probability of 0, whose logarithm is not a number. int8 files round to 0."""

LUMA = np.array([0.299, 0.587, 0.114], "float32")
"""Shares of red, green and blue in grey (ITU-R BT.601), as in Pillow."""

Outputs = Callable[[np.ndarray], np.ndarray]
"""float32 images (batch, size, size, 3) of 0..255 -> outputs of a model, (batch, classes)."""


@dataclass(frozen=True)
class OpenTeacher:
    """A model file that answers about views.

    Attributes:
        outputs: logits or probabilities, in the order of the classes of the photos.
        contract: what the model expects; `outputs` converts what is not about whole photos.
    """

    outputs: Outputs
    contract: InputContract


def open_teacher_file(file: TeacherFile, classes: list[str]) -> OpenTeacher:
    """A model file, ready to answer.

    Args:
        classes: of the photos, in the order of their indices.

    Raises:
        UserError: the file cannot be run here, or takes other images, or has other classes. The
            function raises it for outputs of a wrong shape.
    """
    if not file.path.exists():
        raise UserError(
            f"teacher.files names {file.path}, which does not exist. Expected a .keras, .onnx or "
            ".tflite file or a SavedModel folder."
        )
    beside = labels_beside(file.path, len(classes))
    contract = settled(("options", file.statement), ("labels.txt", beside))
    if file.path.is_dir():
        predict = _saved_model(file)
    elif ending(file.path) in (".onnx", ".tflite"):
        model = _runtime_file(file)
        predict = model.predict
        contract = file_contract(
            file.path,
            read_metadata(file.path),
            num_channels=model.input_shape[2],
            num_classes=model.num_classes,
            answers=model.answers,
            options=file.statement,
        )
    else:
        predict = _keras_file(file)
    order = _order(file, contract.labels, classes)

    def answers(images: np.ndarray) -> np.ndarray:
        if contract.channels == "grey":
            images = images @ LUMA[:, None]
        outputs = np.asarray(predict(contract.apply(images)), "float32")
        width = max(outputs.shape[1:], default=1)
        if outputs.size != len(images) * width:
            raise UserError(
                f"{file.path} returns outputs of shape {outputs.shape[1:]}. Expected one number "
                "for each class."
            )
        if number_of_classes(width) != len(classes):
            raise UserError(
                f"{file.path} answers with {number_of_classes(width):,} classes, and the photos "
                f"have {len(classes):,} ({', '.join(classes[:20])}). Expected a teacher with the "
                "same classes. Name another file in teacher.files, or complete the class folders."
            )
        if order is not None and width == 1:
            raise UserError(
                f"{file.path} answers with one score, that of the second class. Its labels "
                f"are {', '.join(contract.labels or ())}, and the second class of the photos is "
                f"{classes[1]}. Rename the folders, or use a teacher with a score per class."
            )
        outputs = outputs.reshape(len(images), width)
        return outputs if order is None else outputs[:, order]

    return OpenTeacher(answers, contract)


def _order(
    file: TeacherFile, labels: tuple[str, ...] | None, classes: list[str]
) -> list[int] | None:
    """Which output belongs to each class of the photos; None where nothing changes.

    Raises:
        UserError: the teacher has other classes.
    """
    labels = tuple(map(class_name, labels)) if labels else None
    if labels is None or list(labels) == classes:
        return None
    if sorted(labels) != sorted(classes):
        raise UserError(
            f"{file.path} has the classes {', '.join(labels[:20])}, and the photos have "
            f"{', '.join(classes[:20])}. Expected a teacher with the same classes."
        )
    return [labels.index(name) for name in classes]


def _runtime_file(file: TeacherFile) -> Model:
    try:
        return open_model(
            file.path,
            os.cpu_count() or 1,
            file.image_size,
            layout=file.layout,
            output=file.output_layer,
        )
    except ModelFileError as error:
        raise UserError(
            f"{file.path} cannot be used as a teacher: {error}. Check the file, and its "
            "image_size and layout in teacher.files."
        ) from None


def _keras_file(file: TeacherFile) -> Outputs:
    model = load_model(file.path)
    if file.output_layer is not None:
        try:
            model = keras.Model(model.inputs, model.get_layer(file.output_layer).output)
        except ValueError:
            raise UserError(
                f"{file.path} has no layer {file.output_layer}, which output_layer names. Its last "
                f"layers are {', '.join(layer.name for layer in model.layers[-5:])}."
            ) from None
    predict = answers_of(model)
    if file.layout == "nchw":
        return lambda images: predict(images.transpose(0, 3, 1, 2))
    _check_input(file, model.input_shape)
    return predict


def _saved_model(file: TeacherFile) -> Outputs:
    served = open_saved_model(file.path)
    inputs = served.function.structured_input_signature[1]
    ((name, spec),) = inputs.items()
    _check_input(file, spec.shape)

    def predict(images: np.ndarray) -> np.ndarray:
        (output,) = served.function(**{name: tf.cast(images, spec.dtype)}).values()
        return np.asarray(output)

    return predict


def _check_input(file: TeacherFile, shape: Any) -> None:
    num_channels = 1 if file.channels == "grey" else 3
    expected = (None, file.image_size, file.image_size, num_channels)
    sizes = tuple(shape) if isinstance(shape, tuple | list | tf.TensorShape) else ()
    fits = len(sizes) == 4 and all(
        None in (size, right) or size == right for size, right in zip(sizes, expected, strict=True)
    )
    if not fits:
        raise UserError(
            f"{file.path} takes input of shape {sizes or shape}. teacher.files says "
            f"{file.image_size} x {file.image_size} pixels and {num_channels} channel(s), channels "
            "last. Correct image_size, or channels (grey for one channel)."
        )


def as_logits(outputs: np.ndarray, kind: str) -> np.ndarray:
    """The logits of a model's outputs, float32 (batch, classes).

    Args:
        outputs: (batch, classes), or (batch, 1) with one score for two classes.
        kind: "logits" or "probabilities".
    """
    outputs = two_classes(outputs, kind)
    if kind == "logits":
        return outputs
    return np.log(np.maximum(outputs, SMALLEST_PROBABILITY))
