"""Write one file by a recipe, compare it with its model, and add metadata."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf
from pydantic import Field

from compress.graph.classifier import (
    has_scores,
    image_size_of,
    input_shape_of,
    output_function,
)
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from compress.recipes.metadata import write_metadata
from compress.recipes.runtimes import check_runtime, is_too_new, runtime_of
from configs.artifacts import ending, whole_file
from configs.contract import OWN_CONTRACT, OWN_PIXELS, InputContract
from configs.errors import StepFailed
from configs.records import to_json
from configs.schema.choice import Choice
from configs.schema.files import LeastRuntime, OutputKind
from eval.devices.probe import open_model
from eval.footprint import zip_bytes
from eval.metadata import FileMetadata, SplitShares
from eval.needs import Runtime
from eval.scoring.threshold import Threshold

NUM_PARITY_IMAGES = 8
MAX_PARITY_DIFF = {"float32": 1e-3, "float16": 1e-2}
"""A float file that differs more from its model is broken. Rounding explains about 1e-5 in float32
and 1e-3 in float16."""


@dataclass(frozen=True)
class FileManifest:
    """What the manifest of a file says about it.

    Attributes:
        parent: the model that the file was made from.
        parity: the largest difference between the answers of a float file and its model.
        contract: of a foreign model, where it was not that of the file.
        runtime: the least one that opens the file.
        outside_xnnpack: how many operators of each kind XNNPACK leaves to slower code; None for a
            format that it does not read.
        zip_bytes: kept here because compressing at level 9 takes a second for each file.
        threshold: as in the file's metadata.
    """

    parent: Annotated[str, Field(alias="source")]
    recipe: str
    format: str
    parity: float | None
    contract: dict[str, object] | None
    runtime: Runtime
    outside_xnnpack: dict[str, int] | None
    zip_bytes: int
    threshold: Threshold | None = None

    def with_details(self, details: Any) -> dict[str, Any]:
        """The facts as JSON, with what the recipe returned beside them.

        Args:
            details: a dataclass or None; fields that are None are left out.
        """
        added = {} if details is None else to_json(details)
        facts = to_json(self)
        for key in ("contract", "threshold"):
            if facts[key] is None:
                del facts[key]
        return facts | {key: value for key, value in added.items() if value is not None}


def keeps_float32(recipe: str) -> bool:
    """Whether a recipe changes only the format: `export` writes its files, not `quantize`."""
    return recipe.endswith(".float32")


def file_name(parent: str, recipe: str) -> str:
    """student + tflite.int8 -> student-int8.tflite."""
    format_, _, short = recipe.partition(".")
    return f"{parent}-{short}.{format_}"


def write_file(
    conversion: Conversion,
    path: Path,
    recipe: Choice,
    *,
    parent: str,
    classes: list[str],
    has_names: bool = True,
    contract: InputContract = OWN_CONTRACT,
    output: OutputKind = "probabilities",
    split: SplitShares | None = None,
    least_runtime: LeastRuntime = LeastRuntime(),  # noqa: B008 - frozen
    threshold_of: Callable[[Path], Threshold | None] = lambda file: None,
) -> dict[str, Any]:
    """Convert a model to a file by one recipe. `path` is complete afterwards or absent.

    Args:
        conversion: the model and its calibration photos, shared by all files of the model.
        parent: the name of the model, for the metadata.
        classes: the class names in the order of the model's answers.
        has_names: whether they are names, and not numbers because nobody knows the names.
        contract: of the model as it came. The one at hand takes raw pixels, and its calibration
            photos are fitted already.
        split: shares of the validation and test photos.
        least_runtime: the oldest runtime that has to open the file.

    Returns:
        What the manifest of the file says about it, as JSON.

    Raises:
        StepFailed: a float file answers differently from its model.
        UserError: the file needs a newer runtime than `least_runtime`.
    """
    with whole_file(path) as unfinished:
        details = _convert(conversion, unfinished, recipe, output, least_runtime)
        runtime = runtime_of(unfinished)
        check_runtime(path, runtime, least_runtime)
        delegate = open_model(unfinished).delegate
        parity = _parity_of_float(conversion, unfinished, recipe.name, output)
        threshold = threshold_of(unfinished)
        metadata = FileMetadata(
            classes=classes,
            has_names=has_names,
            output="scores" if has_scores(conversion.model) else output,
            pixels=OWN_PIXELS,
            image_size=list(image_size_of(conversion.model)),
            parent=parent,
            recipe=recipe.name,
            split=split,
            channels="grey" if contract.channels == "grey" else "rgb",
            fit=contract.fit,
            interpolation=contract.interpolation,
            contract=contract.describe() or None,
            threshold=threshold,
        )
        write_metadata(unfinished, metadata)
    facts = FileManifest(
        parent=parent,
        recipe=recipe.name,
        format=ending(path)[1:],
        parity=parity,
        contract=contract.describe() or None,
        runtime=runtime,
        outside_xnnpack=delegate.others if delegate else None,
        zip_bytes=zip_bytes(path),
        threshold=threshold,
    )
    return facts.with_details(details)


def _convert(
    conversion: Conversion,
    path: Path,
    recipe: Choice,
    output: OutputKind,
    least_runtime: LeastRuntime,
) -> Any:
    """Write the file, as an older runtime takes it if need be; returns what the recipe says."""
    details = RECIPES[recipe.name](conversion, path, output=output, **recipe.options)
    older = RECIPES.facts(recipe.name).get("for_older_runtimes")
    if older and is_too_new(runtime_of(path), least_runtime):
        details = older(conversion, path, output=output, **recipe.options)
    return details


def _parity_of_float(
    conversion: Conversion, path: Path, recipe: str, output: OutputKind
) -> float | None:
    """What `check_parity` returns for a float file; None for a file that is rounded further."""
    max_diff = MAX_PARITY_DIFF.get(recipe.partition(".")[2])
    # Logits may be large, and float16 rounds them by a share of their size.
    if max_diff is None or not (output == "probabilities" or keeps_float32(recipe)):
        return None
    images = list(islice(conversion.photos(), NUM_PARITY_IMAGES))
    batch = np.stack(images) if images else _noise(conversion.model)
    return check_parity(conversion.model, path, batch, max_diff=max_diff, output=output)


def _noise(model: keras.Model) -> np.ndarray:
    """Images for a comparison without photos."""
    shape = (NUM_PARITY_IMAGES, *input_shape_of(model))
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def check_parity(
    model: keras.Model,
    path: Path,
    images: np.ndarray,
    *,
    max_diff: float = MAX_PARITY_DIFF["float32"],
    output: OutputKind = "probabilities",
) -> float:
    """The largest difference between the answers of a float file and those of its model.

    Args:
        images: float32, (batch, height, width, channels).
        max_diff: the largest difference that rounding explains.

    Raises:
        StepFailed: the file does not compute what the model computes.
    """
    outputs = model.predict_on_batch(images)
    expected = output_function(model, output)(tf.constant(outputs, tf.float32)).numpy()
    difference = float(np.abs(open_model(path).predict(images) - expected).max())
    if not difference <= max_diff:
        raise StepFailed(
            f"{path} differs from its Keras model by up to {difference:.2g} in its {output} "
            f"(at most {max_diff:g} expected). The conversion went wrong: do not ship the "
            "file."
        )
    return difference
