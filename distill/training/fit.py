"""The one `fit` of Keras 3 models: phases, optimizer, learning rate schedule and resuming."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import keras

from configs.process.stopping import stop_waits
from configs.progress import track
from distill.losses import Objective
from distill.training.checkpoint import EpochRow
from distill.training.epochs import (
    Batches,
    EpochKeeper,
    Phase,
    Schedule,
    ValidationScores,
    validate,
)
from distill.training.optimizers import NOT_DECAYED, OPTIMIZERS, SCHEDULES, scale_rates

MAX_GRADIENT = 1e9
"""Gradients of a working network never reach this limit. Behind a kernel of zeros, activations have
no variance, and every BatchNormalization multiplies gradients by 30. After a dozen of them, the
squares of the gradients overflow in the optimizer, and the weights become nan."""
MOST_AT_ONCE = 32
"""Most updates in one call, if they are quick."""


def fit(
    model: keras.Model,
    *,
    train: Callable[[int, int], Any],
    validation: Batches,
    objective: Objective,
    schedule: Schedule,
    checkpoint: Path,
    name: str,
    prepare: Callable[[], None] = lambda: None,
    classifier: keras.Model | None = None,
    phases: Sequence[Phase] = (),
    on_epoch: Callable[[EpochRow], None] = lambda row: None,
    score: Callable[[], ValidationScores] | None = None,
    writes: bool = True,
    begin_only: bool = False,
) -> list[EpochRow]:
    """Train `model` in place; a killed training continues at its last checkpoint.

    Checkpoints are written at the end of an epoch, every few minutes within one, and when the
    process is asked to end. They hold everything that decides how the training continues, so a
    killed training ends in the same place as an undisturbed one.

    Args:
        train: (initial epoch, initial step in it) -> dataset of (images, targets) from there to
            the last epoch.
        validation: returns batches of (images, labels) of the validation split.
        checkpoint: the file that keeps the state, in the step's workspace.
        name: the name of the model, for the progress bar.
        prepare: is called once, before the first epoch (to fit the head). The first checkpoint
            holds its result.
        classifier: the part of `model` that returns logits, which is validated. None: all of it.
        phases: what learns when, up to the last epoch. Patience counts in the last phase only.
            None given: the layers that are trainable now, in all epochs.
        on_epoch: is called with the row of every epoch that ends.
        score: scores the classifier on the validation split. None: this process, on `validation`.
        writes: whether this process writes the checkpoints; of several, one does.
        begin_only: stop when there is a checkpoint.

    Returns:
        One row for each epoch.
    """
    classifier = model if classifier is None else classifier
    phases = phases or [Phase(schedule.epochs)]
    starts = [0, *(phase.end for phase in phases[:-1])]
    with track(name, schedule.epochs * schedule.steps_per_epoch) as advance:
        keeper = EpochKeeper(
            checkpoint=checkpoint,
            score=score or partial(validate, classifier, validation),
            advance=advance,
            schedule=schedule,
            patience_from=starts[-1],
            on_epoch=on_epoch,
            writes=writes,
        )
        was_begun = keeper.load()
        if begin_only and was_begun:
            return []
        for first_epoch, phase in zip(starts, phases, strict=True):
            if keeper.state.epoch >= phase.end and phase is not phases[-1]:
                continue
            phase.begin()
            num_updates = (phase.end - first_epoch) * schedule.steps_per_epoch
            num_classes = classifier.output_shape[-1]
            compile_model(
                model, objective, schedule, num_classes=num_classes, phase=phase, steps=num_updates
            )
            keeper.set_model(model)
            keeper.restore(first_epoch)
            if not was_begun:
                prepare()
                keeper.save()
                was_begun = True
            if begin_only:
                return []
            with stop_waits():  # for the end of an update
                _train_phase(model, train, keeper, phase.end)
    keeper.assign_result()
    return list(keeper.state.history)


def _train_phase(
    model: keras.Model, train: Callable[[int, int], Any], keeper: EpochKeeper, end: int
) -> None:
    """Train up to the epoch `end`, or until the keeper has enough."""
    while not keeper.finished and keeper.state.epoch < end:
        epoch, step = keeper.state.epoch, keeper.state.step
        if step == keeper.schedule.steps_per_epoch:
            keeper.end_trained_epoch()
            continue
        # Keras trains whole epochs only: the rest of an interrupted one is a fit of its own.
        model.fit(
            train(epoch, step),
            initial_epoch=epoch,
            epochs=epoch + 1 if step else end,
            steps_per_epoch=keeper.schedule.steps_per_epoch - step,
            callbacks=[keeper],
            shuffle=False,
            verbose=0,
        )
        keeper.undo_averaging()


class LabelledAccuracy(keras.metrics.Mean):
    """Top-1 of the training photos that have a label.

    A batch counts by the share of its photos that are labelled. A mixed label counts by its
    largest class.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(name="accuracy")
        self.num_classes = num_classes

    def update_state(self, targets: Any, outputs: Any, sample_weight: Any = None) -> None:
        # What a feature loss compares may follow the logits.
        labels, logits = (part[:, : self.num_classes] for part in (targets, outputs))
        right = keras.ops.argmax(labels, axis=-1) == keras.ops.argmax(logits, axis=-1)
        weights = keras.ops.sum(labels, axis=-1)  # 0 for a photo without a label
        num_right = keras.ops.sum(keras.ops.cast(right, weights.dtype) * weights)
        accuracy = keras.ops.divide_no_nan(num_right, keras.ops.sum(weights))
        super().update_state(accuracy, sample_weight=keras.ops.mean(weights))


def compile_model(
    model: keras.Model,
    objective: Objective,
    schedule: Schedule,
    *,
    num_classes: int,
    phase: Phase | None = None,
    steps: int | None = None,
) -> None:
    """Give a model its optimizer, loss and accuracy.

    Args:
        phase: for which, None for the whole training.
        steps: updates of the phase.
    """
    phase = phase or Phase(schedule.epochs)
    steps = steps or schedule.epochs * schedule.steps_per_epoch
    optimizer = _optimizer(schedule, phase, steps, model.trainable_variables)
    if schedule.scales_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)

    is_tensorflow = keras.backend.backend() == "tensorflow"
    model.compile(
        optimizer=optimizer,
        loss=objective,
        metrics=[LabelledAccuracy(num_classes)],
        # XLA takes minutes to compile a B4, and is no faster on CPU than TensorFlow's own graphs.
        # JAX has no other compiler: it would run every operation by itself.
        jit_compile=not is_tensorflow,
        steps_per_execution=_updates_at_once(schedule),
    )
    # A metric makes its variables when it first sees values. Within the first update, Keras would
    # trace the update of TensorFlow twice, which takes longer than an epoch of small photos for a
    # B4. And a training that goes on behind the last update of an epoch sees none before it needs
    # them.
    with nullcontext() if is_tensorflow else keras.StatelessScope():  # it computes nothing on JAX'
        nothing = keras.ops.zeros((1, model.output_shape[-1]))
        model.compute_metrics(None, nothing, nothing)
    if is_tensorflow:
        model.reset_metrics()


def _updates_at_once(schedule: Schedule) -> int:
    """How many updates TensorFlow does in one call; no call may reach into the next epoch."""
    if not schedule.is_quick:
        return 1
    largest = min(schedule.steps_per_epoch, MOST_AT_ONCE)
    return next(n for n in range(largest, 0, -1) if schedule.steps_per_epoch % n == 0)


def _optimizer(
    schedule: Schedule, phase: Phase, steps: int, variables: list[Any]
) -> keras.optimizers.Optimizer:
    rate = SCHEDULES[schedule.curve.name](
        peak=schedule.learning_rate * phase.rate, num_updates=steps, **schedule.curve.options
    )
    limit = (
        {"clipvalue": MAX_GRADIENT}
        if schedule.clip_norm is None
        else {"global_clipnorm": schedule.clip_norm}
    )
    averaging = {
        "use_ema": schedule.ema_momentum is not None,
        "ema_momentum": schedule.ema_momentum or 0.99,
    }
    optimizer = OPTIMIZERS[schedule.optimizer.name](
        rate=rate,
        weight_decay=schedule.weight_decay,
        common={**limit, **averaging},
        **schedule.optimizer.options,
    )
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    if phase.factors:
        scale_rates(optimizer, phase.factors, variables)
    return optimizer
