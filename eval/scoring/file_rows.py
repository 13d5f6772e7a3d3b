"""The row of a file in `files` of report.json: its scores, its times and its size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from configs.artifacts import ending
from eval.footprint import file_bytes, zip_bytes
from eval.needs import Runtime
from eval.scoring.accuracy import Accuracy, Agreement, Comparison, accuracy, compare
from eval.scoring.predictions import Photos
from eval.timing.latency import Latency

COMPARISON_KEYS = (
    "agreement_with_source", "num_flips", "drop_vs_source", "drop_low", "drop_high",
    "drop_vs_student", "mcnemar_p", "confidence_drift", "confidence_drift_low",
    "confidence_drift_high", "probability_moved", "half_point_power", "detectable_drop",
)  # fmt: skip
"""The keys of a `Comparison` in JSON, which are null without a parent."""


@dataclass(frozen=True)
class Parity:
    """How far a float file is from the Keras model it was made from, over all test photos.

    Attributes:
        max_abs_diff: of all probabilities.
        argmax_equal: photos with the same answer.
        n: photos.
    """

    max_abs_diff: float
    argmax_equal: int
    n: int


@dataclass(frozen=True)
class FileRow:
    """One entry of `files` in report.json, where accuracy and comparison are one object.

    Attributes:
        path: in the run directory, or where the file lies.
        format: "tflite" or "onnx".
        recipe: None where the file does not say it, and so for `parent`.
        parent: the model the file was made from.
        zip_bytes: size in a ZIP.
        parity: None for files that are rounded, or without their parent.
        comparison: against the parent; None without it.
        accuracy: None without labelled photos.
        latency: one for each device.
        runtime: the least one that opens the file; None where nothing says it.
        agreement: with the parent, on photos without labels.
    """

    name: str
    path: str
    format: str
    recipe: str | None
    parent: Annotated[str | None, Field(alias="source")]
    file_bytes: int
    zip_bytes: int
    parity: Parity | None
    accuracy: Accuracy | None
    comparison: Comparison | None
    latency: list[Latency]
    runtime: Runtime | None = None
    agreement: Agreement | None = None

    @model_serializer(mode="wrap")
    def _with_one_accuracy(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        comparison = values.pop("comparison") or dict.fromkeys(COMPARISON_KEYS)
        if values["agreement"] is None:
            del values["agreement"]
        if values["accuracy"] is None:
            return values
        return {**values, "accuracy": {**values["accuracy"], **comparison}}


@dataclass(frozen=True)
class References:
    """What a file is compared with: probabilities on the photos it is scored on, or None."""

    parent: np.ndarray | None = None
    student: np.ndarray | None = None
    teacher: np.ndarray | None = None


def file_row(
    path: Path,
    *,
    recipe: str | None,
    parent: str | None,
    probs: np.ndarray | None,
    photos: Photos | None,
    references: References,
    latency: list[Latency],
    shown_path: str | None = None,
    known_zip_bytes: int | None = None,
    runtime: Runtime | None = None,
    agreement: Agreement | None = None,
) -> FileRow:
    """The row of one file.

    Args:
        recipe: as the file's manifest or metadata names it, and so for `parent`.
        probs: of the file, on `photos`; None where there are no photos.
        latency: one for each device.
        shown_path: the path in the row; otherwise `path` itself.
        known_zip_bytes: saves the second that it takes to compress the file.
        runtime: the least one that opens the file, as the file's manifest names it.
        agreement: with the parent, where the photos have no labels.
    """
    comparison = parity = scores = None
    if probs is not None and photos is not None and photos.is_labelled:
        labels, split = photos.labels, photos.split
        scores = accuracy(probs, labels, split=split, teacher_probs=references.teacher)
        if references.parent is not None:
            comparison = compare(probs, references.parent, labels, references.student)
    is_float = (recipe or "").endswith(("float32", "float16"))
    if probs is not None and references.parent is not None and is_float:
        parity = _parity(probs, references.parent)
    return FileRow(
        name=path.name,
        path=shown_path or str(path),
        format=ending(path)[1:],
        recipe=recipe,
        parent=parent,
        file_bytes=file_bytes(path),
        zip_bytes=known_zip_bytes or zip_bytes(path),
        parity=parity,
        accuracy=scores,
        comparison=comparison,
        latency=latency,
        runtime=runtime,
        agreement=agreement,
    )


def _parity(probs: np.ndarray, parent_probs: np.ndarray) -> Parity:
    return Parity(
        max_abs_diff=float(np.abs(probs - parent_probs).max()),
        argmax_equal=int((probs.argmax(1) == parent_probs.argmax(1)).sum()),
        n=len(probs),
    )
