"""Training of a tf_keras model: Adam on a cosine schedule, with a checkpoint after every epoch."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from configs.artifacts import whole_file
from configs.errors import StepFailed
from distill.training.fit import MAX_GRADIENT

Progress = Callable[[int, int, int, int, dict[str, float]], None]
"""progress(epoch, epochs, update, updates_per_epoch, logs) after every update.

`epoch` counts from 0; `update` is the number of updates of this epoch that are done.
"""


@dataclass(frozen=True)
class FinetuneData:
    """What a tf_keras model is trained with, and where the training keeps its state.

    Attributes:
        train: initial epoch -> (images, targets) batches of that and all later epochs.
        steps_per_epoch: the number of updates in an epoch.
        loss: (targets, logits) -> one loss per example, written in keras.ops.
        checkpoint: the file for the state at the end of every epoch; None for none.
    """

    train: Callable[[int], tf.data.Dataset]
    steps_per_epoch: int
    loss: Callable[[Any, Any], Any]
    checkpoint: Path | None = None
    progress: Progress | None = None


def finetune(
    tf_model: Any,
    data: FinetuneData,
    *,
    epochs: int,
    learning_rate: float,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train a tf_keras model in place with Adam and a cosine schedule that ends at zero.

    A training that was killed continues after the last epoch in its checkpoint, and ends with the
    same weights.

    Args:
        learning_rate: at the start.
        callbacks: tf_keras callbacks; they run before the checkpoint is written.

    Returns:
        The model.

    Raises:
        StepFailed: the loss is not a number, or the checkpoint belongs to another model.
    """
    import tf_keras

    num_updates = epochs * data.steps_per_epoch
    schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, num_updates)
    optimizer = tf_keras.optimizers.Adam(schedule, clipvalue=MAX_GRADIENT)
    optimizer.build(tf_model.trainable_variables)
    tf_model.compile(optimizer, loss=data.loss)
    variables = [*tf_model.variables, *optimizer.variables]
    initial_epoch = _restore(variables, data.checkpoint)
    if initial_epoch < epochs:
        tf_model.fit(
            data.train(initial_epoch),
            initial_epoch=initial_epoch,
            epochs=epochs,
            steps_per_epoch=data.steps_per_epoch,
            callbacks=[*callbacks, _epoch_callback(tf_model, variables, data, epochs)],
            verbose=0,
        )
    return tf_model


def _epoch_callback(
    tf_model: Any, variables: list[tf.Variable], data: FinetuneData, epochs: int
) -> Any:
    """The tf_keras callback that seeds the dropouts, reports progress and saves the state."""
    import tf_keras

    generators = [
        layer._random_generator._generator
        for layer in tf_model._flatten_layers()
        if getattr(getattr(layer, "_random_generator", None), "_generator", None) is not None
    ]
    current_epoch = 0

    def begin_epoch(epoch: int, logs: Any) -> None:
        nonlocal current_epoch
        current_epoch = epoch
        for i, generator in enumerate(generators):
            generator.reset_from_seed(epoch * len(generators) + i)

    def end_update(update: int, logs: dict[str, float]) -> None:
        if data.progress is not None:
            data.progress(current_epoch, epochs, update + 1, data.steps_per_epoch, dict(logs))

    def end_epoch(epoch: int, logs: dict[str, float]) -> None:
        if not np.isfinite(logs["loss"]):
            raise StepFailed("fine-tuning diverged: the loss is not a number. Lower learning_rate.")
        num_updates = (epoch + 1) * data.steps_per_epoch
        assert tf_model.optimizer.iterations == num_updates, "too few batches"
        if data.checkpoint is not None:
            _save(variables, data.checkpoint, num_epochs=epoch + 1)

    return tf_keras.callbacks.LambdaCallback(
        on_epoch_begin=begin_epoch, on_batch_end=end_update, on_epoch_end=end_epoch
    )


def _save(variables: list[tf.Variable], checkpoint: Path, num_epochs: int) -> None:
    """Write the state after this many epochs."""
    arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(variables)}
    with whole_file(checkpoint) as unfinished, unfinished.open("wb") as file:
        np.savez(file, num_epochs=num_epochs, **arrays)


def _restore(variables: list[tf.Variable], checkpoint: Path | None) -> int:
    """Restore the state in `checkpoint`; returns the number of finished epochs (0 without one)."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    try:
        with np.load(checkpoint) as saved:
            arrays = [saved[f"variable_{i}"] for i in range(len(saved.files) - 1)]
            num_epochs = int(saved["num_epochs"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StepFailed(
            f"{checkpoint} cannot be read ({error}). Delete it; the training then starts again."
        ) from None
    if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
        raise StepFailed(
            f"{checkpoint} is the checkpoint of another model. Delete it; the training then "
            "starts again."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return num_epochs
