"""Fine-tuning for methods, with the views, soft labels and logit loss of the student."""

from functools import partial
from pathlib import Path

import keras
import tensorflow as tf

from compress.methods.structure import Structure, keep_structure
from compress.methods.tfmot.training import FinetuneData
from configs.progress import Advance
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import load_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import (
    ViewSource,
    evaluation_images,
    steps_per_epoch,
    student_views,
    training_batches,
)
from distill.labels.soft_labels import load_soft_labels
from distill.student import student_objective
from distill.training.classifier import EVALUATION_BATCH
from distill.training.epochs import Schedule
from distill.training.fit import fit
from distill.training.strategies import Plan, apply_plan


def finetune(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    name: str,
    checkpoint: Path,
    model: keras.Model,
    *,
    epochs: int,
    learning_rate: float,
    structure: Structure,
) -> None:
    """Train a Keras 3 model in place, and keep the structure of its kernels.

    Args:
        name: of the model, for the progress bar.
        checkpoint: the file that keeps the state, in the step's workspace.
    """
    config, view_source = experiment.student, student_views(run, experiment, photos)
    validation = load_examples(run, "validation")
    size = (config.image_size, config.image_size)
    apply_plan(
        model,
        Plan(
            head_first=False, trainable="all", freeze_batchnorm=False, learning_rate=learning_rate
        ),
    )
    keep_structure(model, structure)
    fit(
        model,
        train=partial(_batches, run, experiment, view_source, epochs),
        validation=lambda: evaluation_images(validation, size, EVALUATION_BATCH),
        objective=student_objective(run, experiment),
        schedule=Schedule(
            epochs=epochs,
            steps_per_epoch=steps_per_epoch(len(view_source.examples), config.batch_size),
            learning_rate=learning_rate,
            weight_decay=config.weight_decay,
            ema_momentum=config.ema_momentum,
        ),
        checkpoint=checkpoint,
        name=name,
    )


def finetune_data(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    checkpoint: Path,
    *,
    epochs: int,
    advance: Advance,
) -> FinetuneData:
    """The material for a method that trains by itself (`compress/methods/tfmot/training.py`).

    Args:
        advance: takes the number of updates that are done.
    """

    def progress(
        epoch: int, epochs: int, step: int, steps_per_epoch: int, logs: dict[str, float]
    ) -> None:
        advance(epoch * steps_per_epoch + step, f"loss {logs.get('loss', 0):.3f}")

    view_source = student_views(run, experiment, photos)
    return FinetuneData(
        train=partial(_batches, run, experiment, view_source, epochs),
        steps_per_epoch=steps_per_epoch(len(view_source.examples), experiment.student.batch_size),
        loss=student_objective(run, experiment),
        checkpoint=checkpoint,
        progress=progress,
    )


def _batches(
    run: RunDir,
    experiment: Experiment,
    view_source: ViewSource,
    epochs: int,
    initial_epoch: int,
    initial_step: int = 0,
) -> tf.data.Dataset:
    return training_batches(
        view_source,
        image_size=experiment.student.image_size,
        batch_size=experiment.student.batch_size,
        seed=experiment.seed,
        initial_epoch=initial_epoch,
        initial_step=initial_step,
        epochs=epochs,
        soft_labels=load_soft_labels(run, experiment),
    )
