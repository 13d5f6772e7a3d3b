"""The state of a training, in one file that is whole or absent."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.artifacts import whole_file
from configs.records import from_json, to_json


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a training, a row of `history.csv`.

    Attributes:
        accuracy, loss: means over the training views, while the model learned from them.
        val_loss: cross-entropy on the validation split.
        val_accuracy: top-1 on the validation split.
    """

    epoch: int
    accuracy: float
    loss: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class TrainingState:
    """How far a training has come.

    Attributes:
        step: updates done in the unfinished epoch.
        seconds: time spent in the unfinished epoch.
        stale_epochs: finished epochs since the lowest validation loss.
        best_loss: the lowest validation loss; None before the first epoch ends.
        history: one row for each finished epoch.
    """

    step: int = 0
    seconds: float = 0.0
    stale_epochs: int = 0
    best_loss: float | None = None
    history: tuple[EpochRow, ...] = ()

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.history)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that decides how a training continues.

    Attributes:
        model, optimizer, metrics: values of the variables.
        best: the model's variables at the lowest validation loss; empty if they are not kept.
    """

    state: TrainingState
    model: list[np.ndarray]
    optimizer: list[np.ndarray]
    metrics: list[np.ndarray]
    best: list[np.ndarray]


ARRAYS = ("model", "optimizer", "metrics", "best")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    arrays = {
        f"{name}/{number}": array
        for name in ARRAYS
        for number, array in enumerate(getattr(checkpoint, name))
    }
    state = np.array(json.dumps(to_json(checkpoint.state)))
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, state=state, **arrays)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint of a file, or None if there is no file."""
    if not path.exists():
        return None
    with np.load(path) as stored:
        state = from_json(TrainingState, json.loads(str(stored["state"])))
        # NumPy lists the arrays in the order in which they were written.
        arrays = {
            name: [stored[key] for key in stored.files if key.startswith(f"{name}/")]
            for name in ARRAYS
        }
    return Checkpoint(state, **arrays)
