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
from configs.errors import UserError, opening
from distill.features import FeatureKind, Head, head_of, joined_answers, with_features
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
        outputs: logits or probabilities, in the order of the classes of the photos. The features
            that were asked for follow them.
        contract: what the model expects; `outputs` converts what is not about whole photos.
        head: its classifier, in the order of the classes, if features were asked for.
    """

    outputs: Outputs
    contract: InputContract
    num_features: int = 0
    head: Head | None = None


def open_teacher_file(
    file: TeacherFile, classes: list[str], features: FeatureKind | None = None
) -> OpenTeacher:
    """A model file, ready to answer.

    Args:
        classes: of the photos, in the order of their indices.
        features: also return these features. Only a Keras file has them.

    Raises:
        UserError: the file cannot be run here, or takes other images, or has other classes, or
            lacks the features. The function raises it for outputs of a wrong shape.
    """
    if not file.path.exists():
        raise UserError(
            f"teacher.files names {file.path}, which does not exist. Expected a .keras, .onnx or "
            ".tflite file or a SavedModel folder."
        )
    beside = labels_beside(file.path, len(classes))
    contract = settled(("options", file.statement), ("labels.txt", beside))
    num_features, head = 0, None
    if features is not None:
        model = _keras_model(file)
        both, num_features = with_features(model, features, str(file.path))
        predict, head = _keras_outputs(file, both), head_of(model, str(file.path))
    elif file.path.is_dir():
        predict = _saved_model(file)
    elif ending(file.path) in (".onnx", ".tflite"):
        runtime_model = _runtime_file(file)
        predict = runtime_model.predict
        contract = file_contract(
            file.path,
            read_metadata(file.path),
            num_channels=runtime_model.input_shape[2],
            num_classes=runtime_model.num_classes,
            answers=runtime_model.answers,
            options=file.statement,
        )
    else:
        predict = _keras_outputs(file, _keras_model(file))
    order = _order(file, contract.labels, classes)

    def answers(images: np.ndarray) -> np.ndarray:
        if contract.channels == "grey":
            images = images @ LUMA[:, None]
        rows = np.asarray(predict(contract.apply(images)), "float32")
        outputs, feature_rows = _split(rows, num_features)
        labels = contract.labels if order is not None else None
        _check_outputs(file, outputs, len(images), classes, labels)
        outputs = outputs.reshape(len(images), -1)
        outputs = outputs if order is None else outputs[:, order]
        return np.hstack([outputs, feature_rows]) if num_features else outputs

    return OpenTeacher(answers, contract, num_features, head and _in_order(head, order))


def _check_outputs(
    file: TeacherFile,
    outputs: np.ndarray,
    num_images: int,
    classes: list[str],
    labels: tuple[str, ...] | None,
) -> None:
    """Check that a teacher answers about the classes of the photos.

    Args:
        outputs: of a batch of `num_images`, (batch, ...).
        classes: of the photos.
        labels: of the teacher, where they are in another order.

    Raises:
        UserError: it answers with other shapes or classes.
    """
    width = max(outputs.shape[1:], default=1)
    if outputs.size != num_images * width:
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
    if labels is not None and width == 1:
        raise UserError(
            f"{file.path} answers with one score, that of the second class. Its labels "
            f"are {', '.join(labels)}, and the second class of the photos is "
            f"{classes[1]}. Rename the folders, or use a teacher with a score per class."
        )


def logits_of(teacher: OpenTeacher, kind: str) -> Outputs:
    """The function that returns the logits of a teacher, and behind them its features.

    Args:
        kind: of its outputs, "logits" or "probabilities".
    """

    def logits(images: np.ndarray) -> np.ndarray:
        outputs, features = _split(teacher.outputs(images), teacher.num_features)
        return np.hstack([as_logits(outputs, kind), features])

    return logits


def _split(rows: np.ndarray, num_features: int) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of a model, and the features that follow them, (batch, num_features)."""
    num_outputs = rows.shape[-1] - num_features
    return rows[..., :num_outputs], rows[..., num_outputs:]


def _in_order(head: Head, order: list[int] | None) -> Head:
    """A classifier with one logit for each class of the photos, in their order."""
    if head.kernel.shape[1] == 1:  # the score of the second of two classes
        return Head(*(np.concatenate([0 * part, part], -1) for part in (head.kernel, head.bias)))
    return head if order is None else Head(head.kernel[:, order], head.bias[order])


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
        with opening(file.path):
            model = open_model(
                file.path,
                os.cpu_count() or 1,
                file.image_size,
                layout=file.layout,
                output=file.output_layer,
            )
            model.predict(np.zeros((1, *model.input_shape), "float32"))
            return model
    except ModelFileError as error:
        raise UserError(
            f"{file.path} cannot be used as a teacher: {error}. Check the file, and its "
            "image_size and layout in teacher.files."
        ) from None


def _keras_model(file: TeacherFile) -> keras.Model:
    """The model of a Keras file, up to the layer that answers."""
    model = load_model(file.path)
    if file.output_layer is not None:
        try:
            model = keras.Model(model.inputs, model.get_layer(file.output_layer).output)
        except ValueError:
            raise UserError(
                f"{file.path} has no layer {file.output_layer}, which output_layer names. Its last "
                f"layers are {', '.join(layer.name for layer in model.layers[-5:])}."
            ) from None
    return model


def _keras_outputs(file: TeacherFile, model: keras.Model) -> Outputs:
    """The outputs of a Keras model, several of them one behind the other."""
    answers = joined_answers(model)
    if file.layout == "nchw":
        return lambda images: answers(images.transpose(0, 3, 1, 2))
    _check_input(file, model.input_shape)
    return answers


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
