"""Keras model files: how the models of a run are saved, loaded and described."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from configs.artifacts import whole_file
from configs.errors import UserError, is_of_the_machine, opening
from configs.records import to_json
from configs.run_dir import RunDir
from distill.backbones.macs import count_macs
from distill.backbones.weights.foreign_file import check_file
from distill.backbones.weights_file import lower_case_ending
from distill.training.checkpoint import EpochRow


@dataclass(frozen=True)
class ModelFacts:
    """What a manifest and `report.json` say about a model.

    Attributes:
        input_shape: (height, width, channels).
        num_parameters: None for a teacher given as files.
        num_macs: of one image; None if they are not known.
    """

    backbone: str
    input_shape: tuple[int, int, int]
    num_parameters: int | None
    num_macs: int | None


def describe(model: keras.Model, backbone: str, image_size: int) -> ModelFacts:
    """The facts about a model with a square input."""
    return ModelFacts(
        backbone=backbone,
        input_shape=(image_size, image_size, 3),
        num_parameters=int(model.count_params()),
        num_macs=count_macs(model),
    )


def save_model(
    run: RunDir, name: str, model: keras.Model, history: Sequence[EpochRow] = ()
) -> list[Path]:
    """Write the model and its history; returns their paths."""
    path = run.model(name)
    with whole_file(path) as unfinished:
        # A new Model over the same layers has no optimizer and no objective, which no other
        # process could load.
        keras.Model(model.inputs, model.outputs, name=model.name).save(unfinished)
    rows = [to_json(row) for row in history]
    columns = list(rows[0]) if rows else []
    history_csv = path.with_name("history.csv")
    with whole_file(history_csv) as unfinished, open(unfinished, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return [path, history_csv]


def load_model(path: Path) -> keras.Model:
    """A Keras model from a file, with errors that a user can act on.

    Raises:
        UserError: the file is missing, or is not a Keras model that loads here.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. Expected a .keras file.")
    try:
        check_file(path)
        with lower_case_ending(path) as readable, opening(path):
            return keras.saving.load_model(readable, compile=False)
    except UserError:
        raise
    except Exception as error:  # Keras raises errors of every kind for damaged files
        if is_of_the_machine(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is not a Keras model that can be loaded here: {reason}\n"
            "Expected a whole .keras file, saved by Keras 3 with model.save(). If the file belongs "
            "to a run and is damaged, make it again with --force STEP."
        ) from None
