"""The step that applies a compression method to a model of the run."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from compress.finetune import finetune, finetune_data
from compress.graph.classifier import image_size_of
from compress.int8.calibration import calibration_photos
from compress.methods import METHODS, facts_of
from compress.methods.structure import Structure
from compress.run.files import method_chain
from configs.artifacts import read_json
from configs.errors import UserError
from configs.records import from_json, to_json
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from distill.data.manifest import load_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import view_inputs
from distill.model_file import describe, load_model, save_model
from distill.student import learning_inputs
from distill.training.classifier import CHECKPOINT

NOT_OF_A_METHOD = {"epochs", "feature_loss"}
"""Settings that its student depends on, and no fine-tuning of it."""


@dataclass(frozen=True)
class Task:
    """One use of a method in a run.

    Attributes:
        name: of the model that the method makes.
        structure: of the kernels, which training must keep.
        workspace: of the step.
    """

    run: RunDir
    experiment: Experiment
    photos: PhotoStore
    name: str
    method: Choice
    structure: Structure
    workspace: Workspace


def check_order(experiment: Experiment) -> None:
    """Check that no method undoes one before it, before anything is trained.

    Raises:
        UserError: a method stands behind one that declares it as `undone_by`.
    """
    names = [method.name for method in experiment.compress.methods]
    for position, name in enumerate(names):
        undone_by = facts_of(name).undone_by
        for later in names[position + 1 :]:
            if later in undone_by or "*" in undone_by:
                raise UserError(
                    f"compress.methods has {later} after {name}, which would undo {name}. "
                    f"Put {later} first, or remove one of the two."
                )


def method_step(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    *,
    parent: str,
    name: str,
    method: Choice,
) -> Step:
    """Apply one method to the model `parent`; the result is the model `name`."""
    config = experiment.student
    inputs = {
        **view_inputs(run, experiment),
        "source": output_sha256(run.model_dir(parent) / "manifest.json", "model.keras"),
        "method": method.model_dump(mode="json"),
        **learning_inputs(run, experiment, exclude=NOT_OF_A_METHOD),
    }

    def build(workspace: Workspace) -> Built:
        model = load_model(run.model(parent))
        keras.utils.set_random_seed(experiment.seed)
        structure = structure_of(run, experiment, parent, model)
        structure = structure.with_kinds(facts_of(method.name).makes, model)
        task = Task(run, experiment, photos, name, method, structure, workspace)
        start = time.monotonic()
        smaller, remembered = _apply(task, model)
        seconds = round(time.monotonic() - start, 1)
        return save_model(run, name, smaller), {
            **to_json(describe(smaller, config.backbone.name, config.image_size)),
            "seconds_to_train": seconds,
            **remembered,
            "structure": to_json(structure),
        }

    return Step(name, run.model_dir(name) / "manifest.json", inputs, build)


def structure_of(run: RunDir, experiment: Experiment, name: str, model: keras.Model) -> Structure:
    """The structure of the kernels of a model of the run.

    Its manifest records it. The manifests of older runs do not; then the names of the methods say
    it. A student has no structure.
    """
    manifest = read_json(run.model_dir(name) / "manifest.json")
    if "structure" in manifest:
        return from_json(Structure, manifest["structure"])
    structure, chain = Structure(), method_chain(experiment)
    names = [made for made, _ in chain]
    for _, method in chain[: names.index(name) + 1 if name in names else 0]:
        structure = structure.with_kinds(facts_of(method.name).makes, model)
    return structure


def _apply(task: Task, model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
    """Apply the method to `model`.

    The method gets the arguments that it declares as `needs` (`compress.methods.Facts`).

    Returns:
        The new model, and the results that the method remembered, for its manifest.
    """
    run, experiment, method = task.run, task.experiment, task.method
    remembered: dict[str, Any] = {}

    def remember(find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        remembered.update(task.workspace.once("remembered", find))
        # Random numbers from here on do not depend on whether `find` was called in this process.
        keras.utils.set_random_seed(experiment.seed)
        return remembered

    needs = facts_of(method.name).needs
    arguments: dict[str, Any] = {}
    with contextlib.ExitStack() as progress_bar:
        if "calibration" in needs:
            examples = load_examples(run, "train")
            arguments["calibration"] = calibration_photos(examples, image_size_of(model))
        if "remember" in needs:
            arguments["remember"] = remember
        checkpoint = task.workspace.file(CHECKPOINT)
        if "finetune" in needs:
            arguments["finetune"] = partial(
                finetune,
                run,
                experiment,
                task.photos,
                task.name,
                checkpoint,
                structure=task.structure,
            )
        if "finetune_data" in needs:
            arguments["finetune_data"] = progress_bar.enter_context(
                finetune_data(
                    run,
                    experiment,
                    task.photos,
                    task.name,
                    checkpoint,
                    epochs=method.options["epochs"],
                )
            )
        return METHODS[method.name](model, **arguments, **method.options), remembered
