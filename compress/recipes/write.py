"""Write one file by a recipe: parity with its model, metadata."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from compress.graph.graph import image_size_of
from compress.graph.inference import check_parity
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from compress.recipes.metadata import write_metadata
from configs.artifacts import ending, whole_file
from configs.schema import Choice
from eval.footprint import zip_bytes
from eval.metadata import FileMetadata, SplitShares
from eval.pixels import OWN_PIXELS, Pixels
from eval.scoring.probabilities import OutputKind

NUM_PARITY_IMAGES = 8


def keeps_float32(recipe: str) -> bool:
    """Whether a recipe changes nothing but the format: what `export` writes, not `quantize`."""
    return recipe.endswith(".float32")


def file_name(source: str, recipe: str) -> str:
    """student + tflite.int8 -> student-int8.tflite."""
    format_, _, short = recipe.partition(".")
    return f"{source}-{short}.{format_}"


def write_file(
    conversion: Conversion,
    path: Path,
    recipe: Choice,
    *,
    parent: str,
    classes: list[str],
    pixels: Pixels = OWN_PIXELS,
    output: OutputKind = "probabilities",
    split: SplitShares | None = None,
) -> dict[str, Any]:
    """Convert a model to a file by one recipe. `path` is complete afterwards or absent.

    Args:
        conversion: the model and its calibration photos, shared by all files of the model.
        parent: the name of the model, for the metadata.
        classes: the class names in the order of the model's answers.
        pixels: what the model expects of its input; the calibration photos have it already.
        split: shares of the validation and test photos.

    Returns:
        What the file's manifest says of it.

    Raises:
        StepFailed: a float file answers differently from its model.
    """
    with whole_file(path) as unfinished:
        facts = RECIPES[recipe.name](conversion, unfinished, output=output, **recipe.options)
        parity = None
        if keeps_float32(recipe.name):
            images = np.stack(list(islice(conversion.photos(), NUM_PARITY_IMAGES)))
            parity = check_parity(conversion.model, unfinished, images, output=output)
        metadata = FileMetadata(
            classes=classes,
            output=output,
            pixels=pixels,
            image_size=list(image_size_of(conversion.model)),
            parent=parent,
            recipe=recipe.name,
            split=split,
        )
        write_metadata(unfinished, metadata)
    return {
        "source": parent,
        "recipe": recipe.name,
        "format": ending(path)[1:],
        "parity": parity,
        # Kept: level 9 takes a second for each file, and every report asks.
        "zip_bytes": zip_bytes(path),
        **(facts or {}),
    }
