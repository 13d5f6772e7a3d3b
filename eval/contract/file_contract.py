"""The input contract of a model file: what the user says, then the file, then its shape."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.artifacts import ending
from configs.contract import InputContract, Statement, settled
from configs.errors import UserError, opening
from eval.contract.foreign_metadata import labels_beside, onnx_statement, tflite_statement
from eval.devices.probe import Model, ModelFileError, open_model
from eval.metadata import FileMetadata, read_metadata
from eval.scoring.class_counts import number_of_classes

log = logging.getLogger("potstill")


def open_under(path: Path, contract: InputContract | Statement, num_threads: int = 1) -> Model:
    """A model file, with the layout and the output that a contract names.

    Raises:
        ModelFileError: as `open_model`.
    """
    return open_model(path, num_threads, layout=contract.layout, output=contract.output_layer)


def describe(file: Path, output: str | None = None) -> FileMetadata | None:
    """What a model file says of itself, once it has answered about a black image.

    Args:
        output: name of the output that answers, for a file with several.

    Raises:
        UserError: it does not exist, or is not a model that can be run here.
    """
    if not file.exists():
        raise UserError(f"{file} does not exist. Expected a .tflite or .onnx file.")
    try:
        with opening(file):
            model = open_model(file, output=output)
            model.predict(np.zeros((1, *model.input_shape), "float32"))
            return read_metadata(file, number_of_classes(model.num_classes))
    except ModelFileError as error:
        raise UserError(f"{file} is not a model that can be run here: {error}") from None


def file_contract(
    path: Path,
    metadata: FileMetadata | None,
    *,
    num_channels: int,
    num_classes: int,
    answers: str | None = None,
    options: Statement | None = None,
) -> InputContract:
    """What a file expects of a photo, and what its answers mean.

    Args:
        metadata: our own, of the file.
        num_channels, num_classes: of the model in the file. Labels of another number are not its
            own.
        answers: what the last operator of the file says of its answers.
    """
    foreign = beside = None
    if metadata is None:
        is_onnx = ending(path) == ".onnx"
        foreign = onnx_statement(path) if is_onnx else tflite_statement(path)
        beside = labels_beside(path, max(num_classes, 2))
        if not _fits(foreign, num_classes):
            log.warning(
                "%s: its metadata has %d labels, and it answers with %d classes. These labels are "
                "not used. Name the classes with --labels FILE.",
                path, len(foreign.labels or ()), max(num_classes, 2),
            )  # fmt: skip
            foreign = replace(foreign, labels=None)
    graph = Statement(channels="grey" if num_channels == 1 else None, answers=answers)  # type: ignore[arg-type]
    return settled(
        ("options", options),
        ("metadata", metadata.statement if metadata else foreign),
        ("labels.txt", beside),
        ("graph", graph),
    )


def _fits(statement: Statement, num_classes: int) -> bool:
    return statement.labels is None or len(statement.labels) == max(num_classes, 2)
