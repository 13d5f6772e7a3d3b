"""The one `fit` of Keras 3 models: optimizer, learning rate schedule and resuming."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from configs.progress import track
from distill.losses import Objective
from distill.training.checkpoint import EpochRow
from distill.training.epochs import Batches, EpochKeeper, Schedule

WARMUP_SHARE = 0.05
MAX_GRADIENT = 1e9
"""Gradients of a working network never reach this limit. Behind a kernel of zeros, activations have
no variance, and every BatchNormalization multiplies gradients by 30. After a dozen of them, the
squares of the gradients overflow in the optimizer, and the weights become nan."""
# Weight decay on these only shrinks the scales of the activations.
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
    classifier: keras.Model | None = None,
) -> list[EpochRow]:
    """Train `model` in place; a killed training continues at its last checkpoint.

    Checkpoints are written at the end of an epoch and every few minutes within one. They hold
    everything that decides how the training continues, so a killed training ends in the same
    place as an undisturbed one.

    Args:
        train: (initial epoch, initial step in it) -> dataset of (images, targets) from there to
            the last epoch.
        validation: returns batches of (images, labels) of the validation split.
        checkpoint: the file that keeps the state, in the step's workspace.
        name: the name of the model, for the progress bar.
        prepare: is called once, before the first epoch (to fit the head). The first checkpoint
            holds its result.
        classifier: the part of `model` that returns logits, which is validated. None: all of it.

    Returns:
        One row for each epoch.
    """
    classifier = model if classifier is None else classifier
    compile_model(model, objective, schedule, num_classes=classifier.output_shape[-1])
    with track(name, schedule.epochs * schedule.steps_per_epoch) as advance:
        keeper = EpochKeeper(
            checkpoint=checkpoint,
            classifier=classifier,
            validation=validation,
            advance=advance,
            schedule=schedule,
        )
        keeper.set_model(model)
        if not keeper.restore():
            prepare()
            keeper.save()
        while not keeper.finished:
            epoch, step = keeper.state.epoch, keeper.state.step
            # Keras trains whole epochs only: the rest of an interrupted one is a fit of its own.
            model.fit(
                train(epoch, step),
                initial_epoch=epoch,
                epochs=epoch + 1 if step else schedule.epochs,
                steps_per_epoch=schedule.steps_per_epoch - step,
                callbacks=[keeper],
                shuffle=False,
                verbose=0,
            )
            keeper.undo_averaging()
    keeper.assign_result()
    return list(keeper.state.history)


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
    model: keras.Model, objective: Objective, schedule: Schedule, *, num_classes: int
) -> None:
    """Give a model its optimizer, loss and accuracy."""
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
        clipvalue=MAX_GRADIENT,
    )
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    optimizer.build(model.trainable_variables)

    # XLA takes minutes to compile a B4, and is no faster on CPU.
    model.compile(
        optimizer=optimizer,
        loss=objective,
        metrics=[LabelledAccuracy(num_classes)],
        jit_compile=False,
    )
    # A metric makes its variables when it first sees values. Within the first update, Keras would
    # trace the update twice, which takes longer than an epoch of small photos for a B4.
    nothing = keras.ops.zeros((1, model.output_shape[-1]))
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()
