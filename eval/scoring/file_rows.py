"""One row of `files` in report.json: the scores and times of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.artifacts import ending
from eval.footprint import file_bytes, zip_bytes
from eval.scoring.accuracy import accuracy, compare
from eval.scoring.predictions import Photos
from eval.timing.latency import Latency

NEEDS_SOURCE = (
    "agreement_with_source", "num_flips", "drop_vs_source", "drop_low", "drop_high",
    "drop_vs_student", "mcnemar_p", "confidence_drift", "confidence_drift_low",
    "confidence_drift_high", "probability_moved", "half_point_power", "detectable_drop",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """What a file is compared with: probabilities on the photos it is scored on, or None."""

    source: np.ndarray | None = None
    student: np.ndarray | None = None
    teacher: np.ndarray | None = None


def file_row(
    path: Path,
    *,
    facts: dict[str, Any],
    probs: np.ndarray,
    photos: Photos,
    reference: Reference,
    latency: list[Latency],
) -> dict[str, Any]:
    """One entry of `files` in report.json.

    Args:
        facts: recipe and source, as the file's manifest or metadata gives them.
        latency: of the file, one for each device.
    """
    scores = accuracy(probs, photos.labels, split=photos.split, teacher_probs=reference.teacher)
    against: dict[str, Any] = dict.fromkeys(NEEDS_SOURCE)
    if reference.source is not None:
        against = compare(probs, reference.source, photos.labels, student_probs=reference.student)
    return {
        "name": path.name,
        "path": str(facts.get("path", path)),
        "format": ending(path)[1:],
        "recipe": facts.get("recipe"),
        "source": facts.get("source"),
        "file_bytes": file_bytes(path),
        "zip_bytes": facts.get("zip_bytes") or zip_bytes(path),
        "parity": _parity(probs, reference.source) if _is_float(facts) else None,
        "accuracy": {**scores, **against},
        "latency": latency,
    }


def _is_float(facts: dict[str, Any]) -> bool:
    return str(facts.get("recipe") or "").endswith(("float32", "float16"))


def _parity(probs: np.ndarray, source_probs: np.ndarray | None) -> dict[str, Any] | None:
    """How far a float file is from the Keras model it came from, over all test photos."""
    if source_probs is None:
        return None
    return {
        "max_abs_diff": float(np.abs(probs - source_probs).max()),
        "argmax_equal": int((probs.argmax(1) == source_probs.argmax(1)).sum()),
        "n": len(probs),
    }
