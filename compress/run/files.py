"""The files of a run: which there are, and the step that writes each."""

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from compress.graph.classifier import image_size_of
from compress.int8.calibration import calibration_photos
from compress.recipes.conversion import Conversion
from compress.recipes.write import file_name, write_file
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from distill.data.manifest import load_examples
from distill.model_file import load_model
from distill.trained.ship import shipped_of
from distill.trained.temperature import fold_temperature, temperature_input, temperature_of
from eval.metadata import SplitShares
from eval.scoring.predictions import Photos, file_probabilities
from eval.scoring.threshold import Threshold, fit_threshold

log = logging.getLogger("potstill")


def file_steps(
    run: RunDir, experiment: Experiment, parent: str, recipes: list[Choice]
) -> Iterator[Step]:
    """The steps that write the files of one model of the run, one step for each recipe.

    The first step that has work to do loads and calibrates the model; the others share it.
    """

    @cache
    def conversion() -> Conversion:
        model = load_model(run.model(parent))
        fold_temperature(model, temperature_of(run, experiment, parent))
        photos = load_examples(run, "train")
        return Conversion(model, calibration_photos(photos, image_size_of(model)))

    for recipe in recipes:
        yield _file_step(run, experiment, parent, recipe, conversion)


def _file_step(
    run: RunDir,
    experiment: Experiment,
    parent: str,
    recipe: Choice,
    conversion: Callable[[], Conversion],
) -> Step:
    path = run.file(file_name(parent, recipe.name))
    inputs: dict[str, Any] = {
        "model": output_sha256(run.model_dir(parent) / "manifest.json", "model.keras"),
        "photos": output_sha256(run.photos_manifest.with_suffix(".json"), "manifest.csv"),
        "recipe": recipe.model_dump(mode="json"),
        "output": experiment.compress.output,
        **temperature_input(run, experiment, parent),
    }
    accuracy = experiment.compress.accepted_accuracy
    inputs |= {} if accuracy is None else {"accepted_accuracy": accuracy}
    least_runtime = experiment.compress.least_runtime
    if least_runtime.tflite:
        inputs["least_runtime"] = least_runtime.tflite

    def threshold_of(file: Path) -> Threshold | None:
        if accuracy is None:
            return None
        validation = load_examples(run, "validation")
        photos = Photos("validation", validation.paths, validation.labels)
        threads = experiment.evaluate.num_threads
        probs = file_probabilities(file, photos, num_threads=threads, name=path.name)
        threshold = fit_threshold(probs, validation.labels, accuracy)
        if threshold is None:
            log.warning(
                "%s: no score is high enough that %.0f %% of the validation photos above it are "
                "right. The file gets no threshold for photos of none of the classes. For "
                "one, lower compress.accepted_accuracy or add photos.",
                path.name,
                100 * accuracy,
            )
        return threshold

    def build(workspace: Workspace) -> Built:
        facts = write_file(
            conversion(),
            path,
            recipe,
            parent=parent,
            classes=load_examples(run, "train").classes,
            output=experiment.compress.output,
            split=SplitShares(experiment.data.validation, experiment.data.test),
            least_runtime=least_runtime,
            threshold_of=threshold_of,
        )
        return [path], facts

    return Step(path.name, path.with_name(path.name + ".json"), inputs, build)


def sources(run: RunDir, experiment: Experiment) -> list[str]:
    """The models that become files: student or control, and what each method made of it."""
    return [shipped_of(run).model, *(name for name, _ in method_chain(experiment))]


def method_chain(experiment: Experiment) -> list[tuple[str, Choice]]:
    """The methods in order, each on the result of the one before: (name of the result, method)."""
    methods = experiment.compress.methods
    return [("-".join(m.name for m in methods[: i + 1]), m) for i, m in enumerate(methods)]
