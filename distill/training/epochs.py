"""The epochs of a training: validation, history, early stopping and checkpoints."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from configs.errors import StepFailed
from configs.process.stopping import Stopped, stop_if_requested, stop_is_requested
from configs.progress import Advance
from configs.schema.choice import Choice
from distill.training.checkpoint import (
    Checkpoint,
    EpochRow,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from eval.scoring.probabilities import log_softmax

log = logging.getLogger("potstill")

SECONDS_BETWEEN_CHECKPOINTS = 300.0
COSINE, ADAMW = Choice(name="cosine"), Choice(name="adamw")

Batches = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model learns.

    Attributes:
        learning_rate: the largest.
        curve, optimizer: names and options in `SCHEDULES` and `OPTIMIZERS`.
        clip_norm: largest norm of the gradient; None for no limit that matters.
        scales_loss: scale the loss up so that gradients of float16 do not vanish.
        is_quick: updates take so little that Python's part in them counts: do several at once.
        patience: epochs without a lower validation loss after which training stops and the best
            weights return. None trains all epochs and keeps the last weights.
        ema_momentum: validate and keep the exponential moving average of the weights; this share
            of the average stays at each update. None keeps the weights themselves.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    weight_decay: float
    patience: int | None = None
    ema_momentum: float | None = None
    curve: Choice = COSINE
    optimizer: Choice = ADAMW
    clip_norm: float | None = None
    scales_loss: bool = False
    is_quick: bool = False


@dataclass(frozen=True)
class Phase:
    """Epochs in which the same layers learn. Every phase has an optimizer of its own.

    Attributes:
        end: the first epoch after it.
        rate: its learning rate, as a share of that of the schedule.
        begin: makes the layers learn that learn in this phase.
        factors: of the rate, by the path of a variable; 1 for others.
    """

    end: int
    rate: float = 1.0
    begin: Callable[[], None] = lambda: None
    factors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationScores:
    """Mean cross-entropy and top-1 on the validation split."""

    val_loss: float
    val_accuracy: float


class EpochKeeper(keras.callbacks.Callback):
    """Validates, records the history and writes checkpoints while a model is trained.

    A checkpoint is written at the end of every epoch, every few minutes within one, and when the
    process is asked to end.

    Args:
        patience_from: epochs before this one never count as stale: they belong to early phases.
        score: scores the model on the validation split.
        on_epoch: is called with the row of every epoch that ends.
        writes: whether this process writes the checkpoints.
    """

    def __init__(
        self,
        *,
        checkpoint: Path,
        score: Callable[[], ValidationScores],
        advance: Advance,
        schedule: Schedule,
        patience_from: int = 0,
        on_epoch: Callable[[EpochRow], None] = lambda row: None,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.score = score
        self.writes = writes
        self.advance = advance
        self.schedule = schedule
        self.patience_from = patience_from
        self.on_epoch = on_epoch
        self.stored: Checkpoint | None = None
        self.state = TrainingState()
        self.best: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.metrics: list[np.ndarray] = []
        self.first_step = 0
        self.epoch_start = 0.0
        self.last_save = 0.0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the patience is used up."""
        patience = self.schedule.patience
        out_of_patience = patience is not None and self.state.stale_epochs >= patience
        return out_of_patience or self.state.epoch >= self.schedule.epochs

    def load(self) -> bool:
        """Read the checkpoint; False if there is none."""
        self.stored = load_checkpoint(self.checkpoint)
        if self.stored is None:
            return False
        self.state, self.best = self.stored.state, self.stored.best
        self.metrics = self.stored.metrics
        if self.state.epoch or self.state.step:
            log.info("continuing after %d epochs and %d updates", self.state.epoch, self.state.step)
        return True

    def restore(self, first_epoch: int) -> None:
        """Give the model, which begins a phase, what the checkpoint holds, if it was read.

        Args:
            first_epoch: of the phase.
        """
        if self.stored is None:
            return
        _assign(self.model.variables, self.stored.model)
        # At its first update, a phase has a new optimizer. The stored one is of the phase before.
        if (self.state.epoch, self.state.step) != (first_epoch, 0):
            _assign(self.model.optimizer.variables, self.stored.optimizer)
        self.stored = None

    def save(self) -> None:
        """Write the checkpoint."""
        if not self.writes:
            return
        checkpoint = Checkpoint(
            state=self.state,
            model=_values(self.model.variables),
            optimizer=_values(self.model.optimizer.variables),
            metrics=_values(self.model.metrics_variables),
            best=self.best,
        )
        save_checkpoint(self.checkpoint, checkpoint)
        self.last_save = time.monotonic()

    def assign_result(self) -> None:
        """Give the model its final weights: the best, the averaged or the last ones."""
        if self.best:
            _assign(self.model.variables, self.best)
        elif self.schedule.ema_momentum is not None:
            self._average()

    def _average(self) -> None:
        """Give the model the average of its weights."""
        variables = self.model.trainable_variables
        self.model.optimizer.finalize_variable_values(variables)
        for variable in variables:
            # On JAX, the array is now also the optimizer's, and validation would use it up.
            average = keras.ops.copy(variable)
            # Keras averages weights before it applies their constraints.
            constrain = variable.constraint or (lambda weights: weights)
            variable.assign(constrain(average))

    def undo_averaging(self) -> None:
        """Restore the weights that are being trained: Keras ends every fit with their average."""
        if self.weights:
            _assign(self.model.trainable_variables, self.weights)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.first_step = self.state.step
        self.epoch_start = time.monotonic() - self.state.seconds
        if self.first_step:
            # Keras has just reset the means of loss and accuracy; they are those of a whole epoch.
            _assign(self.model.metrics_variables, self.metrics)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        step = self.first_step + batch + 1
        history = self.state.history
        note = f"val top-1 {history[-1].val_accuracy:.1%}" if history else ""
        is_due = time.monotonic() - self.last_save >= SECONDS_BETWEEN_CHECKPOINTS
        must_save = stop_is_requested() or (is_due and step < self.schedule.steps_per_epoch)
        # Of several processes, the one that writes decides when to stop.
        if self.writes and must_save:
            self._save_within_epoch(step)
            stop_if_requested()
        self.advance(self.state.epoch * self.schedule.steps_per_epoch + step, note)

    def _save_within_epoch(self, step: int) -> None:
        seconds = time.monotonic() - self.epoch_start
        self.state = dataclasses.replace(self.state, step=step, seconds=seconds)
        self.save()

    def end_trained_epoch(self) -> None:
        """End an epoch whose updates are all in the checkpoint, but whose validation is not."""
        self.on_epoch_begin(self.state.epoch)
        self.on_epoch_end(self.state.epoch, self.model.get_metrics_result())

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.schedule.ema_momentum is not None:
            self.weights = _values(self.model.trainable_variables)
            self._average()
        try:
            scores = self.score()
        except Stopped:
            self.undo_averaging()
            self._save_within_epoch(self.schedule.steps_per_epoch)
            raise
        trained = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(trained["loss"]) or not math.isfinite(scores.val_loss):
            raise StepFailed(
                f"training diverged in epoch {epoch + 1}: the loss is not a number. "
                "Lower its learning_rate."
            )
        row = EpochRow(
            epoch=epoch + 1,
            **trained,
            **dataclasses.asdict(scores),
            seconds=round(time.monotonic() - self.epoch_start, 2),
        )
        self.state = self._after(row)
        self.undo_averaging()
        self.save()
        self.on_epoch(row)
        if self.finished:
            self.model.stop_training = True

    def _after(self, row: EpochRow) -> TrainingState:
        """The state behind a finished epoch; keeps the weights if they are the best so far."""
        stale_epochs, best_loss = self.state.stale_epochs + 1, self.state.best_loss
        if row.epoch <= self.patience_from:
            stale_epochs = 0
        if best_loss is None or row.val_loss < best_loss:
            stale_epochs, best_loss = 0, row.val_loss
            if self.schedule.patience is not None:
                self.best = _values(self.model.variables)
        return TrainingState(
            stale_epochs=stale_epochs,
            best_loss=best_loss,
            history=(*self.state.history, row),
        )


def validate(model: keras.Model, batches: Batches) -> ValidationScores:
    """Score a model on the validation split."""
    losses, is_right = [], []
    for images, labels in batches():
        stop_if_requested()
        # Only two numbers of each photo stay: logits of a thousand classes would fill the memory.
        logits = np.asarray(model.predict_on_batch(images)).astype("float64")
        losses.append(-log_softmax(logits)[np.arange(len(labels)), labels])
        is_right.append(logits.argmax(axis=1) == labels)
    loss, accuracy = (np.concatenate(values).mean() for values in (losses, is_right))
    return ValidationScores(float(loss), float(accuracy))


def _assign(variables: list[Any], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]
