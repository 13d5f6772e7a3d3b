"""Fine-tuning for methods, with the views, labels and logit loss of the model that is shipped."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import keras
import tensorflow as tf

from compress.methods.structure import Structure, keep_structure
from compress.methods.tfmot.training import FinetuneData
from configs.progress import track
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import load_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import evaluation_images
from distill.student import Lessons, lessons
from distill.trained.ship import shipped_of
from distill.training.batches import training_batches
from distill.training.epochs import Schedule
from distill.training.fit import fit
from distill.training.strategies.layers import ALL, train_only
from distill.training.strategies.lesson import EVALUATION_BATCH


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
    config = experiment.student
    learned = lessons(run, experiment, photos, shipped_of(run).model)
    validation = load_examples(run, "validation")
    size = (config.image_size, config.image_size)
    train_only(model, ALL, freeze_batchnorm=False)
    keep_structure(model, structure)
    fit(
        model,
        train=partial(_batches, experiment, learned, epochs),
        validation=lambda: evaluation_images(validation, size, EVALUATION_BATCH),
        objective=learned.objective,
        schedule=Schedule(
            epochs=epochs,
            steps_per_epoch=learned.views.steps_per_epoch(config.batch_size),
            learning_rate=learning_rate,
            weight_decay=config.weight_decay,
            ema_momentum=config.ema_momentum,
        ),
        checkpoint=checkpoint,
        name=name,
    )


@contextmanager
def finetune_data(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    name: str,
    checkpoint: Path,
    *,
    epochs: int,
) -> Iterator[FinetuneData]:
    """The material for a method that trains by itself (`compress/methods/tfmot/training.py`).

    It comes with a progress bar; arguments as of `finetune`.
    """
    learned = lessons(run, experiment, photos, shipped_of(run).model)
    steps = learned.views.steps_per_epoch(experiment.student.batch_size)
    with track(name, epochs * steps) as advance:

        def progress(
            epoch: int, epochs: int, step: int, steps_per_epoch: int, logs: dict[str, float]
        ) -> None:
            advance(epoch * steps_per_epoch + step, f"loss {logs.get('loss', 0):.3f}")

        yield FinetuneData(
            train=partial(_batches, experiment, learned, epochs),
            steps_per_epoch=steps,
            loss=learned.objective,
            checkpoint=checkpoint,
            progress=progress,
        )


def _batches(
    experiment: Experiment,
    learned: Lessons,
    epochs: int,
    initial_epoch: int,
    initial_step: int = 0,
) -> tf.data.Dataset:
    return training_batches(
        learned.views,
        image_size=experiment.student.image_size,
        batch_size=experiment.student.batch_size,
        seed=experiment.seed,
        initial_epoch=initial_epoch,
        initial_step=initial_step,
        epochs=epochs,
        soft_labels=learned.soft_labels,
    )
