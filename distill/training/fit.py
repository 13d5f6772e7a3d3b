"""The one `fit` of Keras 3 models: optimizer, learning rate, and what keeps its epochs."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from configs.progress import track
from distill.losses import Objective
from distill.training.epochs import Batches, EpochKeeper, Schedule

log = logging.getLogger("potstill")

WARMUP_SHARE = 0.05
# Weight decay on these shrinks what normalises the activations, and helps nothing.
NOT_DECAYED = ["gamma", "beta", "bias"]


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
) -> list[dict[str, Any]]:
    """Train `model` in place; a killed training continues at its last checkpoint.

    Checkpoints are written at the end of an epoch and every few minutes within one. They hold
    all that decides how the training goes on, so its end is the undisturbed one's.

    Args:
        train: (initial epoch, initial step in it) -> dataset of (images, targets) from there to
            the last epoch.
        validation: -> (images, labels) of the validation split.
        checkpoint: the file that keeps the state, in the step's workspace.
        name: what is trained, for the progress bar.
        prepare: done once, before the first epoch (the head's own training); its outcome is
            part of the first checkpoint.

    Returns:
        One dictionary per epoch: epoch, loss, accuracy, val_loss, val_accuracy, seconds.
    """
    compile_model(model, objective, schedule)
    with track(name, schedule.epochs * schedule.steps_per_epoch) as advance:
        keeper = EpochKeeper(
            checkpoint=checkpoint,
            validation=validation,
            advance=advance,
            schedule=schedule,
        )
        keeper.set_model(model)
        if not keeper.restore():
            prepare()
            keeper.save()
        while not keeper.finished:
            first = keeper.done.step
            # Keras knows whole epochs only: the rest of a broken one is a fit of its own.
            model.fit(
                train(keeper.epoch, first),
                initial_epoch=keeper.epoch,
                epochs=keeper.epoch + 1 if first else schedule.epochs,
                steps_per_epoch=schedule.steps_per_epoch - first,
                callbacks=[keeper],
                shuffle=False,
                verbose=0,
            )
            keeper.undo_averaging()
    keeper.assign_result()
    return keeper.history


class LabelledAccuracy(keras.metrics.Mean):
    """Top-1 of the training photos that have a label.

    A batch counts by the share of its photos that are labelled. A mixed label counts by its
    largest class.
    """

    def __init__(self) -> None:
        super().__init__(name="accuracy")

    def update_state(self, targets: Any, logits: Any, sample_weight: Any = None) -> None:
        labels = targets[:, : logits.shape[-1]]
        right = keras.ops.argmax(labels, axis=-1) == keras.ops.argmax(logits, axis=-1)
        weights = keras.ops.sum(labels, axis=-1)  # 0 for a photo without a label
        num_right = keras.ops.sum(keras.ops.cast(right, weights.dtype) * weights)
        accuracy = keras.ops.divide_no_nan(num_right, keras.ops.sum(weights))
        super().update_state(accuracy, sample_weight=keras.ops.mean(weights))


def compile_model(model: keras.Model, objective: Objective, schedule: Schedule) -> None:
    """Give a model the optimizer, loss and accuracy it is trained with."""
    steps = schedule.epochs * schedule.steps_per_epoch
    warmup = max(int(steps * WARMUP_SHARE), 1)
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=schedule.learning_rate / 10,
            warmup_target=schedule.learning_rate,
            warmup_steps=warmup,
            decay_steps=max(steps - warmup, 1),
        ),
        weight_decay=schedule.weight_decay,
        use_ema=schedule.ema_momentum is not None,
        ema_momentum=schedule.ema_momentum or 0.99,
    )
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    optimizer.build(model.trainable_variables)

    # XLA takes minutes to compile a B4, and gains nothing back on CPU.
    model.compile(
        optimizer=optimizer, loss=objective, metrics=[LabelledAccuracy()], jit_compile=False
    )
    # A metric makes its variables when it first sees values. Within the first step that would have
    # the step traced twice, which for a B4 takes longer than an epoch of small photos.
    nothing = keras.ops.zeros((1, model.output_shape[-1]))
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()
