"""The epochs of a training: how many, and what is validated, noted and saved as they go by."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from configs.errors import StepFailed
from configs.progress import Advance
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from eval.scoring.probabilities import log_softmax

log = logging.getLogger("potstill")

SECONDS_BETWEEN_CHECKPOINTS = 300.0

Batches = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model learns.

    Attributes:
        learning_rate: peak of a cosine schedule with a short linear warm-up.
        patience: epochs without a lower validation loss before training stops and the best
            weights come back; None trains all epochs and keeps the last.
        ema_momentum: validate and keep the exponential moving average of the weights, which
            keeps so much of itself at each step; None keeps the weights.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    weight_decay: float
    patience: int | None = None
    ema_momentum: float | None = None


def _assign(variables: list[Any], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


@dataclass
class _Progressed:
    """How far a training is: epochs done, and of the unfinished one its steps and means."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    means: dict[str, float] = field(default_factory=dict)
    stale_epochs: int = 0
    best_loss: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)


class EpochKeeper(keras.callbacks.Callback):
    """At the end of an epoch: validate, note, decide whether to stop, save all of it.

    Within an epoch: save from time to time.
    """

    def __init__(
        self,
        *,
        checkpoint: Path,
        validation: Batches,
        advance: Advance,
        schedule: Schedule,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.validation = validation
        self.advance = advance
        self.schedule = schedule
        self.done = _Progressed()
        self.best: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.first_step = 0
        self.means_before: dict[str, float] = {}
        self.epoch_start = 0.0
        self.last_save = 0.0

    @property
    def epoch(self) -> int:
        return self.done.epoch

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.done.history

    @property
    def finished(self) -> bool:
        patience = self.schedule.patience
        out_of_patience = patience is not None and self.done.stale_epochs >= patience
        return out_of_patience or self.epoch >= self.schedule.epochs

    def restore(self) -> bool:
        stored = load_checkpoint(self.checkpoint)
        if stored is None:
            return False
        state, arrays = stored
        self.done = _Progressed(**state["done"])
        self.best = arrays.get("best", [])
        _assign(self.model.variables, arrays["model"])
        _assign(self.model.optimizer.variables, arrays["optimizer"])
        if self.epoch or self.done.step:
            log.info("continuing after epoch %d, step %d", self.epoch, self.done.step)
        return True

    def save(self) -> None:
        arrays = {
            "model": _values(self.model.variables),
            "optimizer": _values(self.model.optimizer.variables),
            "best": self.best,
        }
        save_checkpoint(self.checkpoint, {"done": self.done.__dict__}, arrays)
        self.last_save = time.monotonic()

    def assign_result(self) -> None:
        """Give the model what the training is for: its best, averaged or last weights."""
        if self.best:
            _assign(self.model.variables, self.best)
        elif self.schedule.ema_momentum is not None:
            self._average()

    def _average(self) -> None:
        """Give the model the average of its weights."""
        variables = self.model.trainable_variables
        self.model.optimizer.finalize_variable_values(variables)
        # Keras averages weights before it puts them under their constraints.
        for variable in variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    def undo_averaging(self) -> None:
        """Take back the weights that are trained: Keras ends every fit with their average."""
        if self.weights:
            _assign(self.model.trainable_variables, self.weights)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.first_step = self.done.step
        self.epoch_start = time.monotonic() - self.done.seconds
        self.means_before = self.done.means

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = self.first_step + batch + 1
        last = self.history[-1] if self.history else None
        note = f"val top-1 {last['val_accuracy']:.1%}" if last else ""
        self.advance(self.epoch * self.schedule.steps_per_epoch + step, note)
        is_time = time.monotonic() - self.last_save >= SECONDS_BETWEEN_CHECKPOINTS
        if is_time and step < self.schedule.steps_per_epoch:
            self.done.step = step
            self.done.seconds = time.monotonic() - self.epoch_start
            self.done.means = self._means(step, logs or {})
            self.save()

    def _means(self, step: int, logs: dict[str, Any]) -> dict[str, float]:
        """Loss and accuracy over the epoch so far; Keras knows them since the last start."""
        before = self.first_step / step
        return {
            name: before * self.means_before.get(name, 0.0) + (1 - before) * float(value)
            for name, value in logs.items()
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.schedule.ema_momentum is not None:
            self.weights = _values(self.model.trainable_variables)
            self._average()
        scores = validate(self.model, self.validation)
        trained = self._means(self.schedule.steps_per_epoch, logs or {})
        if not math.isfinite(trained["loss"]) or not math.isfinite(scores["val_loss"]):
            raise StepFailed(
                f"training diverged in epoch {epoch + 1}: the loss is not a number. "
                "Lower its learning_rate."
            )
        self.done.epoch = epoch + 1
        self.done.step, self.done.means = 0, {}
        seconds = round(time.monotonic() - self.epoch_start, 2)
        self.history.append({"epoch": epoch + 1, **trained, **scores, "seconds": seconds})
        if scores["val_loss"] < self.done.best_loss:
            self.done.best_loss = scores["val_loss"]
            self.done.stale_epochs = 0
            if self.schedule.patience is not None:
                self.best = _values(self.model.variables)
        else:
            self.done.stale_epochs += 1
        self.done.seconds = 0.0
        self.undo_averaging()
        self.save()
        if self.finished:
            self.model.stop_training = True


def validate(model: keras.Model, batches: Batches) -> dict[str, float]:
    """Mean cross-entropy (val_loss) and top-1 (val_accuracy) on the validation split."""
    logits, labels = [], []
    for images, some in batches():
        logits.append(np.asarray(model.predict_on_batch(images)))
        labels.append(some)
    all_logits, all_labels = np.concatenate(logits).astype("float64"), np.concatenate(labels)
    loss = -log_softmax(all_logits)[np.arange(len(all_labels)), all_labels].mean()
    accuracy = (all_logits.argmax(axis=1) == all_labels).mean()
    return {"val_loss": float(loss), "val_accuracy": float(accuracy)}
