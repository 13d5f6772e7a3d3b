"""The methods of a config, one on the result of the other, fine-tuned under the student's loss."""

import contextlib
import inspect
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras

from compress.finetune import finetune, finetune_data
from compress.graph.graph import image_size_of
from compress.methods import METHODS
from compress.recipes.write import calibration_of
from configs.artifacts import digest, read_json, write_json
from configs.errors import UserError
from configs.progress import track
from configs.resume import Step, output_sha256
from configs.run_dir import RunDir
from configs.schema import Choice, Experiment
from distill.data.inputs import steps_per_epoch
from distill.data.manifest import load_examples
from distill.data.run_views import taught_examples, view_inputs
from distill.labels.soft_labels import soft_labels_step
from distill.training.classifier import (
    checkpoint_dir,
    describe,
    load_model,
    remove_checkpoint,
    save_model,
)
from eval.scoring.accuracy import OWN_PIXELS


def check_order(experiment: Experiment) -> None:
    """Look whether a method would undo one before it, before anything is trained.

    A method says by which in its own file, as UNDONE_BY; `*` stands for all.

    Raises:
        UserError: one would.
    """
    names = [method.name for method in experiment.compress.methods]
    for place, name in enumerate(names):
        undone_by = getattr(inspect.getmodule(METHODS[name]), "UNDONE_BY", ())
        for later in names[place + 1 :]:
            if later in undone_by or "*" in undone_by:
                raise UserError(
                    f"compress.methods has {later} after {name}, and would lose by it what {name} "
                    f"is for. Put {later} first, or leave one of the two out."
                )


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
        smaller, found = _applied(run, experiment, model, name, method, checkpoint)
        config = experiment.student
        facts = describe(smaller, config.backbone.name, config.image_size)
        return save_model(run, name, smaller, []), {**facts, **found}

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
        clean=lambda: remove_checkpoint(run, name),
    )


def _applied(
    run: RunDir,
    experiment: Experiment,
    model: keras.Model,
    name: str,
    method: Choice,
    checkpoint: Path,
) -> tuple[keras.Model, dict[str, Any]]:
    """The model that the method makes of `model`, and what there is to say of it.

    A method asks by argument name for what it needs: `calibration` images, `finetune` to train a
    Keras 3 model, `finetune_data` to train elsewhere, `remember` for what would turn out otherwise
    when a killed run goes on.
    """
    memory = checkpoint.with_suffix(".json")
    wanted = inspect.signature(METHODS[method.name]).parameters
    given: dict[str, Any] = {}
    start = time.monotonic()
    with contextlib.ExitStack() as bar:
        if "calibration" in wanted:
            examples = load_examples(run, "train")
            given["calibration"] = calibration_of(examples, image_size_of(model), OWN_PIXELS)
        if "remember" in wanted:
            given["remember"] = partial(remembered, memory, seed=experiment.seed)
        if "finetune" in wanted:
            given["finetune"] = partial(finetune, run, experiment, name, checkpoint)
        if "finetune_data" in wanted:
            epochs, config = method.options["epochs"], experiment.student
            steps = steps_per_epoch(len(taught_examples(run)), config.batch_size)
            advance = bar.enter_context(track(name, epochs * steps))
            given["finetune_data"] = finetune_data(
                run, experiment, checkpoint, epochs=epochs, advance=advance
            )
        smaller = METHODS[method.name](model, **given, **method.options)
    facts = {"seconds_to_train": round(time.monotonic() - start, 1)}
    return smaller, facts | (read_json(memory) if memory.exists() else {})


def remembered(path: Path, find: Callable[[], dict[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """What `find` says, as JSON; in a run that goes on, what it said then.

    Args:
        seed: of what is random from here on, in both cases.
    """
    if not path.exists():
        write_json(path, find())
    keras.utils.set_random_seed(seed)
    return dict(read_json(path))
