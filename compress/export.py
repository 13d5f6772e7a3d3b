"""From a Keras model to files: the recipes of a config, with what the files say of themselves."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from compress import onnx, tflite
from compress.calibration import Images
from compress.graph import image_size_of
from compress.inference import check_parity
from compress.metadata import write_metadata
from configs.registry import Registry
from configs.run_dir import RunDir, Step, output_sha256, whole_file
from configs.schema import Choice, Experiment
from distill.classifier import load_model
from distill.data import Examples, load_examples
from eval.accuracy import OWN_PIXELS, Pixels
from eval.footprint import zip_bytes
from eval.images import evaluation_image
from eval.metadata import FileMetadata

RECIPES: Registry = tflite.RECIPES | onnx.RECIPES

NUM_PARITY_IMAGES = 8


def keeps_float32(recipe: str) -> bool:
    """Whether a recipe changes nothing but the format: what `export` writes, not `quantize`."""
    return recipe.endswith(".float32")


def file_name(source: str, recipe: str) -> str:
    """student + tflite.int8 -> student-int8.tflite."""
    format_, _, short = recipe.partition(".")
    return f"{source}-{short}.{format_}"


def calibration_of(examples: Examples, size: tuple[int, int], pixels: Pixels) -> Images:
    """Training photos through the evaluation view, the classes taking turns.

    Returns:
        A function that starts over: float32 (height, width, 3), as the model wants its pixels.
    """
    by_class = [np.flatnonzero(examples.labels == i) for i in range(len(examples.classes))]
    turns = max(map(len, by_class))
    order = [some[turn] for turn in range(turns) for some in by_class if turn < len(some)]

    def images() -> Iterator[np.ndarray]:
        for index in order:
            yield pixels.apply(evaluation_image(examples.paths[index], size))

    return images


def write_file(
    model: Any,
    path: Path,
    recipe: Choice,
    *,
    source: str,
    examples: Examples,
    pixels: Pixels = OWN_PIXELS,
    output: str = "probabilities",
    split: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Convert `model` by one recipe to `path`, whole or not at all.

    Args:
        examples: the training photos; the recipe calibrates on some of them.

    Returns:
        What the file's manifest says of it.

    Raises:
        StepFailed: a float file answers differently from its model.
    """
    size = image_size_of(model)
    calibration = calibration_of(examples, size, pixels)
    with whole_file(path) as unfinished:
        facts = RECIPES[recipe.name](
            model, unfinished, calibration=calibration, output=output, **recipe.options
        )
        parity = None
        if keeps_float32(recipe.name):
            some = list(islice(calibration(), NUM_PARITY_IMAGES))
            parity = check_parity(model, unfinished, np.stack(some), output=output)
        metadata = FileMetadata(
            classes=examples.classes,
            output=output,
            pixels=pixels.describe(),
            image_size=list(size),
            source=source,
            recipe=recipe.name,
            split=split,
        )
        write_metadata(unfinished, metadata)
    return {
        "source": source,
        "recipe": recipe.name,
        "format": path.suffix[1:],
        "parity": parity,
        # Kept: level 9 takes a second for each file, and every report asks.
        "zip_bytes": zip_bytes(path),
        **(facts or {}),
    }


def file_step(run: RunDir, experiment: Experiment, source: str, recipe: Choice) -> Step:
    """Write one file of one model of the run."""
    path = run.file(file_name(source, recipe.name))
    inputs: dict[str, Any] = {
        "model": output_sha256(run.model_dir(source) / "manifest.json", "model.keras"),
        "photos": output_sha256(run.photos_manifest.with_suffix(".json"), "manifest.csv"),
        "recipe": recipe.model_dump(mode="json"),
        "output": experiment.compress.output,
    }

    def build() -> tuple[list[Path], dict[str, Any]]:
        facts = write_file(
            _loaded(run.model(source), inputs["model"]),
            path,
            recipe,
            source=source,
            examples=load_examples(run, "train"),
            output=experiment.compress.output,
            split={"validation": experiment.data.validation, "test": experiment.data.test},
        )
        return [path], facts

    return Step(path.name, path.with_name(path.name + ".json"), inputs, build)


@lru_cache(maxsize=1)
def _loaded(path: Path, sha256: str) -> Any:
    """The model of a run, kept for the next of its files; recipes change copies."""
    return load_model(path)


def sources(experiment: Experiment) -> list[str]:
    """The models that become files: the student, and what each method made of it."""
    return ["student", *(name for name, _ in method_chain(experiment))]


def method_chain(experiment: Experiment) -> list[tuple[str, Choice]]:
    """The methods in order, each on the result of the one before: (name of the result, method)."""
    methods = experiment.compress.methods
    return [("-".join(m.name for m in methods[: i + 1]), m) for i, m in enumerate(methods)]
