"""The methods of a config, one on the result of the other, fine-tuned under the student's loss."""

import inspect
import time
from pathlib import Path
from typing import Any

import keras

from compress.export import calibration_of
from compress.graph import image_size_of
from compress.methods import METHODS
from compress.tfmot import FinetuneData
from configs.progress import track
from configs.run_dir import RunDir, Step, digest, output_sha256
from configs.schema import Choice, Experiment
from distill.classifier import (
    checkpoint_dir,
    describe,
    load_model,
    remove_checkpoint,
    save_model,
)
from distill.data import load_examples
from distill.inputs import steps_per_epoch, training_batches
from distill.run_views import taught_views, view_inputs
from distill.soft_labels import load_soft_labels, soft_labels_step
from distill.student import student_objective
from eval.accuracy import OWN_PIXELS


def method_step(
    run: RunDir, experiment: Experiment, *, source: str, name: str, method: Choice
) -> Step:
    """Apply one method to the model `source`; the result is the model `name`."""
    labels = soft_labels_step(run, experiment).manifest
    inputs = {
        **view_inputs(run, experiment),
        "source": output_sha256(run.model_dir(source) / "manifest.json", "model.keras"),
        "method": method.model_dump(mode="json"),
        "soft_labels": labels.stem,
        "student": experiment.student.model_dump(
            mode="json", exclude={"control", "seeds", "epochs"}
        ),
    }

    def build() -> tuple[list[Path], dict[str, Any]]:
        model = load_model(run.model(source))
        keras.utils.set_random_seed(experiment.seed)
        # Named by all it depends on: a checkpoint of other settings is not found.
        checkpoint = checkpoint_dir(run, name) / f"{digest(inputs)}.npz"
        smaller, seconds = _finetuned(run, experiment, model, name, method, checkpoint)
        config = experiment.student
        facts = describe(smaller, config.backbone.name, config.image_size)
        return save_model(run, name, smaller, []), {**facts, "seconds_to_train": seconds}

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
        clean=lambda: remove_checkpoint(run, name),
    )


def _finetuned(
    run: RunDir,
    experiment: Experiment,
    model: keras.Model,
    name: str,
    method: Choice,
    checkpoint: Path,
) -> tuple[keras.Model, float]:
    """The model that the method makes of `model`, and the seconds it took.

    A method asks by argument name: for `finetune_data` to learn, or for `calibration` images.
    """
    wanted = inspect.signature(METHODS[method.name]).parameters
    if "finetune_data" not in wanted:
        start = time.monotonic()
        images = calibration_of(load_examples(run, "train"), image_size_of(model), OWN_PIXELS)
        smaller = METHODS[method.name](model, calibration=images, **method.options)
        return smaller, round(time.monotonic() - start, 1)
    config = experiment.student
    source = taught_views(run, experiment)
    epochs = method.options.get("epochs", 1)
    steps = steps_per_epoch(len(source.examples), config.batch_size)
    start = time.monotonic()
    with track(name, epochs * steps) as advance:

        def progress(
            epoch: int, epochs: int, step: int, steps_per_epoch: int, logs: dict[str, Any]
        ) -> None:
            advance(epoch * steps_per_epoch + step, f"loss {logs.get('loss', 0):.3f}")

        finetune_data = FinetuneData(
            train=lambda initial_epoch: training_batches(
                source,
                image_size=config.image_size,
                batch_size=config.batch_size,
                seed=experiment.seed,
                initial_epoch=initial_epoch,
                epochs=epochs,
                soft_labels=load_soft_labels(run, experiment),
            ),
            steps_per_epoch=steps,
            loss=student_objective(run, experiment),
            checkpoint=checkpoint,
            progress=progress,
        )
        smaller = METHODS[method.name](model, finetune_data=finetune_data, **method.options)
    return smaller, round(time.monotonic() - start, 1)
