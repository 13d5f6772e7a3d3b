"""The methods of a config, one on the result of the other, fine-tuned under the student's loss."""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from compress.files import method_chain
from compress.finetune import finetune, finetune_data
from compress.graph.graph import image_size_of
from compress.int8.calibration import calibration_photos
from compress.methods import METHODS, facts_of
from compress.methods.structure import Structure
from configs.artifacts import read_json
from configs.errors import UserError
from configs.progress import track
from configs.records import from_json, to_json
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Choice, Experiment
from distill.data.manifest import load_examples, student_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import steps_per_epoch, view_inputs
from distill.labels.soft_labels import soft_labels_path
from distill.model_file import describe, load_model, save_model
from distill.training.classifier import CHECKPOINT
from eval.pixels import OWN_PIXELS


def check_order(experiment: Experiment) -> None:
    """Look whether a method would undo one before it, before anything is trained.

    A method declares them where it registers, as `undone_by`; "*" stands for all.

    Raises:
        UserError: one would.
    """
    names = [method.name for method in experiment.compress.methods]
    for place, name in enumerate(names):
        undone_by = facts_of(name).undone_by
        for later in names[place + 1 :]:
            if later in undone_by or "*" in undone_by:
                raise UserError(
                    f"compress.methods has {later} after {name}, and would lose by it what {name} "
                    f"is for. Put {later} first, or leave one of the two out."
                )


def method_step(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    *,
    source: str,
    name: str,
    method: Choice,
) -> Step:
    """Apply one method to the model `source`; the result is the model `name`."""
    inputs = {
        **view_inputs(run, experiment),
        "source": output_sha256(run.model_dir(source) / "manifest.json", "model.keras"),
        "method": method.model_dump(mode="json"),
        "soft_labels": soft_labels_path(run, experiment).stem,
        "student": experiment.student.model_dump(
            mode="json", exclude={"control", "seeds", "epochs"}
        ),
    }

    def build(workspace: Workspace) -> Built:
        model = load_model(run.model(source))
        keras.utils.set_random_seed(experiment.seed)
        parent = structure_of(run, experiment, source, model)
        structure = parent.with_kinds(facts_of(method.name).makes, model)
        smaller, found = _applied(
            run, experiment, photos, model, name, method, workspace, structure
        )
        config = experiment.student
        facts = to_json(describe(smaller, config.backbone.name, config.image_size))
        record = {"structure": to_json(structure)}
        return save_model(run, name, smaller), {**facts, **found, **record}

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
    )


def structure_of(run: RunDir, experiment: Experiment, name: str, model: keras.Model) -> Structure:
    """The structure of the kernels of a model of the run, as its manifest records it."""
    manifest = read_json(run.model_dir(name) / "manifest.json")
    if "structure" in manifest:
        return from_json(Structure, manifest["structure"])
    # A student has none. Runs made before manifests had the record say it by their methods.
    structure, chain = Structure(), method_chain(experiment)
    names = [made for made, _ in chain]
    for _, method in chain[: names.index(name) + 1 if name in names else 0]:
        structure = structure.with_kinds(facts_of(method.name).makes, model)
    return structure


def _applied(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    model: keras.Model,
    name: str,
    method: Choice,
    workspace: Workspace,
    structure: Structure,
) -> tuple[keras.Model, dict[str, Any]]:
    """The model that the method makes of `model`, and what there is to say of it.

    The method gets the arguments that it declared as `needs` (`compress.methods.Facts`).

    Args:
        structure: what training must keep.
    """
    checkpoint = workspace.file(CHECKPOINT)
    remembered: dict[str, Any] = {}

    def remember(find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        remembered.update(workspace.once("remembered", find))
        # What is random from here on is the same, whether it was found now or before.
        keras.utils.set_random_seed(experiment.seed)
        return remembered

    needs = facts_of(method.name).needs
    arguments: dict[str, Any] = {}
    start = time.monotonic()
    with contextlib.ExitStack() as bar:
        if "calibration" in needs:
            examples = load_examples(run, "train")
            arguments["calibration"] = calibration_photos(
                examples, image_size_of(model), OWN_PIXELS
            )
        if "remember" in needs:
            arguments["remember"] = remember
        if "finetune" in needs:
            arguments["finetune"] = partial(
                finetune, run, experiment, photos, name, checkpoint, structure=structure
            )
        if "finetune_data" in needs:
            epochs, config = method.options["epochs"], experiment.student
            steps = steps_per_epoch(len(student_examples(run)), config.batch_size)
            advance = bar.enter_context(track(name, epochs * steps))
            arguments["finetune_data"] = finetune_data(
                run, experiment, photos, checkpoint, epochs=epochs, advance=advance
            )
        smaller = METHODS[method.name](model, **arguments, **method.options)
    facts = {"seconds_to_train": round(time.monotonic() - start, 1)}
    return smaller, facts | remembered
