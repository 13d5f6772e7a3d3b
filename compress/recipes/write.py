"""Write one file by a recipe: calibration, parity with its model, metadata."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from compress.graph.graph import image_size_of
from compress.graph.inference import check_parity
from compress.int8.calibration import Images
from compress.recipes import RECIPES
from compress.recipes.metadata import write_metadata
from configs.artifacts import whole_file
from configs.schema import Choice
from distill.data.manifest import Examples
from eval.footprint import zip_bytes
from eval.images import evaluation_image
from eval.metadata import FileMetadata
from eval.scoring.accuracy import OWN_PIXELS, Pixels

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
