"""The contract of a foreign model or file: what the user and the model say, tried on photos."""

import logging
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from compress.foreign.door import check_input, graph_statement, with_fixed_size
from configs.contract import InputContract, settled
from configs.errors import UserError
from distill.data.manifest import Examples, describe_empty
from distill.data.sources.folders import has_test_folder
from eval.contract.choice import ContractChoice, check_edges, contract_of
from eval.contract.file_contract import open_under
from eval.contract.foreign_metadata import labels_beside
from eval.contract.settle import Predict, settle_by_trial, with_answers
from eval.contract.trial import TrialPhotos, trial_photos
from eval.images import evaluation_image
from eval.metadata import FileMetadata, class_name
from eval.scoring.class_counts import class_mismatch, number_of_classes

log = logging.getLogger("potstill")

NUM_UNTRIED = 16
"""How many images show what the answers of a model are."""


def settle_file(
    file: Path,
    metadata: FileMetadata | None,
    choice: ContractChoice,
    splits: dict[str, Examples],
) -> InputContract:
    """The contract of a file, tried on training and validation photos; one line shows it."""
    contract = contract_of(file, metadata, choice, splits["train"].classes)
    model = open_under(file, contract)
    matched(splits["test"], contract.labels, model.num_classes, file)
    contract = settle_by_trial(
        lambda images, tried: model.predict(tried.apply(images)),
        model.input_shape[:2],
        labelled_photos(splits),
        contract,
        model=file.name,
        automatic=choice.automatic,
    )
    log.info("%s: contract: %s", file.name, contract.line)
    return contract


def settle_model(
    model: keras.Model, path: Path, choice: ContractChoice, splits: dict[str, Examples] | None
) -> InputContract:
    """The contract of a Keras model, tried on training and validation photos; one line shows it.

    Args:
        path: of its file; `labels.txt` may lie beside it.
        splits: photos with or without labels; None for none.
    """
    statement, model = graph_statement(model), with_fixed_size(model)
    check_input(model)
    num_classes = number_of_classes(model.outputs[0].shape[-1])
    options = choice.of_classes(splits["train"].classes if splits else ())
    beside = labels_beside(path, num_classes)
    contract = settled(("options", options), ("labels.txt", beside), ("graph", statement))
    num_channels = model.input_shape[1 if contract.layout == "nchw" else 3]
    if num_channels not in (1, 3):
        raise UserError(
            f"--layout {contract.layout} does not fit {path}: of the input {model.input_shape}, it "
            f"takes {num_channels} as the number of channels. Expected 1 or 3. Leave --layout out."
        )
    check_edges(contract, num_channels, model.outputs[0].shape[-1], path)
    if splits and splits["test"].classes:
        matched(splits["test"], contract.labels, num_classes, path)
    is_first = contract.layout == "nchw"

    def predict(images: np.ndarray, tried: InputContract) -> np.ndarray:
        inputs = tried.apply(images)
        inputs = inputs.transpose(0, 3, 1, 2) if is_first else inputs
        return np.asarray(model.predict_on_batch(inputs), "float32")

    size = model.input_shape[2:4] if is_first else model.input_shape[1:3]
    if splits is None or not splits["train"].classes:
        if choice.automatic:
            raise UserError(
                "--contract auto tries the model on labelled photos. Give class folders."
            )
        contract = _untried(predict, size, contract, splits["train"] if splits else None)
        log.info("%s: contract, not tried without labels: %s", path.name, contract.line)
        return contract
    contract = settle_by_trial(
        predict,
        size,
        labelled_photos(splits),
        contract,
        model=path.name,
        automatic=choice.automatic,
    )
    log.info("%s: contract: %s", path.name, contract.line)
    return contract


def note_drawn_photos(path: Path, data: Path) -> None:
    """Say that a model may have learned the photos that score it, unless the user chose them."""
    if not has_test_folder(data):
        log.info(
            "%s is scored on photos that are drawn from %s. If it has learned them, its top-1 is "
            "too high. Put photos that it has not learned into %s, and the others into %s",
            path.name, data, data / "test", data / "train",
        )  # fmt: skip


def _untried(
    predict: Predict, size: tuple[int, int], contract: InputContract, photos: Examples | None
) -> InputContract:
    """The contract with the kind of answers that the model gives about photos or noise."""
    if photos is not None:
        images = [evaluation_image(path, size, contract) for path in photos.paths[:NUM_UNTRIED]]
        batch = np.stack(images)
    else:
        channels = 1 if contract.channels == "grey" else 3
        rng = np.random.default_rng(0)
        batch = rng.integers(0, 256, (NUM_UNTRIED, *size, channels)).astype("uint8")
    return with_answers(contract, predict(batch, contract))


def labelled_photos(splits: dict[str, Examples]) -> TrialPhotos:
    """The photos that a contract is tried on: never test photos."""
    parts = [splits["train"], splits["validation"]]
    return trial_photos(
        [path for part in parts for path in part.paths],
        [part.classes[label] for part in parts for label in part.labels],
    )


def matched(
    examples: Examples, labels: Sequence[str] | None, num_classes: int, file: Path
) -> Examples:
    """The same photos with the class numbers of the model.

    Args:
        labels: the names of the classes in the order of the answers; None if nobody knows them.
        num_classes: that the model answers with.

    Raises:
        UserError: the model does not know a class of the folder, or their number differs.
    """
    if labels:
        names = [class_name(label) for label in labels]
        unknown = sorted(set(examples.classes) - set(names))
        if unknown:
            raise UserError(
                f"the labels of {file} are {', '.join(names[:20])}. The photos have classes that "
                f"are not among them: {', '.join(unknown[:20])}. Rename the folders, or write the "
                "labels as the folders are called, in the order of the answers: --labels FILE."
            )
        number = np.array([names.index(name) for name in examples.classes], "int32")
        return Examples(examples.ids, examples.paths, number[examples.labels], names)
    if number_of_classes(num_classes) != len(examples.classes):
        empty = describe_empty(examples.empty_classes)
        raise UserError(f"{file} {class_mismatch(num_classes, examples.classes)} {empty}".rstrip())
    return examples
