"""Scores of a file on photos."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import StepFailed, UserError
from eval.devices.probe import ModelFileError, open_model
from eval.scoring.statistics import (
    calibration_interval,
    detectable_drop,
    expected_calibration_error,
    macro_f1,
    mcnemar_p,
    mcnemar_power,
    mean_interval,
    negative_log_likelihood,
    paired_interval,
    top_k,
    wilson_interval,
)

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """What a model expects of its input: (pixel - mean) / std, pixels being 0..255."""

    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    def apply(self, images: np.ndarray) -> np.ndarray:
        """float32 images as the model takes them, from uint8 or float (..., 3)."""
        mean, std = np.array(self.mean, "float32"), np.array(self.std, "float32")
        return (images.astype("float32") - mean) / std

    def describe(self) -> dict[str, Any]:
        """For a file's metadata."""
        return {"range": [0, 255], "mean": list(self.mean), "std": list(self.std)}


OWN_PIXELS = Pixels()
RANGES = {
    "0..255": OWN_PIXELS,
    "0..1": Pixels(std=(255.0,) * 3),
    "-1..1": Pixels(mean=(127.5,) * 3, std=(127.5,) * 3),
}


def pixels_from_options(pixels: str | None, mean: str | None, std: str | None) -> Pixels | None:
    """What `--pixels`, or `--mean` and `--std`, say of a foreign model; None where nothing is said.

    Raises:
        UserError: both were given, or one that cannot be read.
    """
    if pixels is not None and (mean or std):
        raise UserError("--pixels and --mean/--std say the same thing twice. Give one of them.")
    if pixels is None and mean is None and std is None:
        return None
    if pixels is None:
        return Pixels(_triple("--mean", mean or "0"), _triple("--std", std or "1", positive=True))
    if pixels not in RANGES:
        raise UserError(f"--pixels {pixels}: expected one of {', '.join(RANGES)}.")
    return RANGES[pixels]


def _triple(option: str, text: str, *, positive: bool = False) -> Triple:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or (positive and min(values) <= 0):
        raise UserError(f"{option} {text}: expected R,G,B in 0..255, as in 123.7,116.3,103.5.")
    return values[0], values[1], values[2]


def as_probabilities(outputs: np.ndarray) -> np.ndarray:
    """Rows that are probabilities as they are, renormalised; anything else through softmax."""
    outputs = outputs.astype("float32")
    if output_kind(outputs) == "probabilities":
        sums = outputs.sum(axis=1, keepdims=True)
        # A row that was rounded to zeros knows nothing.
        return np.where(sums > 0, outputs / np.maximum(sums, 1e-7), 1 / outputs.shape[1])
    return np.asarray(np.exp(log_softmax(outputs)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, (examples, classes)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def output_kind(outputs: np.ndarray) -> str:
    """Whether a model answers with "probabilities" or "logits".

    Decided for all rows together, for a model returns one or the other. An int8 output holds
    probabilities in steps of 1/256, so a sum is off by up to half a step for each class.

    Args:
        outputs: (examples, classes), or (examples, 1) for the score of the second of two classes.
    """
    num_classes = outputs.shape[1]
    in_range = outputs.min(initial=0) >= 0 and outputs.max(initial=0) <= 1.01
    off = np.abs(outputs.sum(axis=1) - 1).max(initial=0)
    sums_fit = num_classes == 1 or off <= max(0.05, num_classes / 512)
    return "probabilities" if in_range and sums_fit else "logits"


def two_classes(outputs: np.ndarray, kind: str) -> np.ndarray:
    """One score of the second class, of a kind as `output_kind` tells, as two; others as is."""
    if outputs.shape[1] != 1:
        return outputs
    first = 1 - outputs if kind == "probabilities" else np.zeros_like(outputs)
    return np.hstack([first, outputs])


def predict_file(
    path: Path,
    batches: Iterable[np.ndarray],
    pixels: Pixels = OWN_PIXELS,
    num_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Probabilities of a model file, float32 (examples, classes).

    Args:
        batches: uint8 images (batch, height, width, 3) of the evaluation view.
        progress: called with how many images are done.

    Raises:
        UserError: the file cannot be run, or has a single score where classes are expected.
        StepFailed: it answers with values that are no numbers.
    """
    try:
        model = open_model(path, num_threads)
    except ModelFileError as error:
        raise UserError(f"{path} is no model that can be run here: {error}.") from None
    if model.num_classes < 2:
        raise UserError(f"{path} answers with a single score; expected one for each class.")
    outputs = [np.zeros((0, model.num_classes), "float32")]
    for images in batches:
        outputs.append(model.predict(pixels.apply(images)))
        if progress:
            progress(sum(map(len, outputs)))
    answers = np.concatenate(outputs)
    if not np.isfinite(answers).all():
        raise StepFailed(f"{path} answers with NaN or infinity: its arithmetic overflows.")
    return as_probabilities(answers)


def accuracy(
    probs: np.ndarray, labels: np.ndarray, *, split: str, teacher_probs: np.ndarray | None = None
) -> dict[str, Any]:
    """ACCURACY of report.json: scores of probabilities (examples, classes) against labels."""
    predicted = probs.argmax(axis=1)
    num_right, n = int((predicted == labels).sum()), len(labels)
    low, high = wilson_interval(num_right, n)
    ece_low, ece_high = calibration_interval(probs, labels)
    return {
        "split": split,
        "n": n,
        "top1": num_right / n,
        "top1_low": low,
        "top1_high": high,
        "top5": top_k(probs, labels, 5),
        "macro_f1": macro_f1(predicted, labels),
        "nll": negative_log_likelihood(probs, labels),
        "ece": expected_calibration_error(probs, labels),
        "ece_low": ece_low,
        "ece_high": ece_high,
        "agreement_with_teacher": None
        if teacher_probs is None
        else float((predicted == teacher_probs.argmax(axis=1)).mean()),
    }


def _power(n: int, discordant: float) -> dict[str, float]:
    """Whether so many photos could have shown a drop, if answers change as often as they did."""
    half_point = mcnemar_power(n=n, drop=0.005, discordant=max(discordant, 0.005))
    return {
        "half_point_power": half_point,
        "detectable_drop": detectable_drop(n=n, discordant=discordant),
    }


def compare(
    probs: np.ndarray,
    source_probs: np.ndarray,
    labels: np.ndarray,
    student_probs: np.ndarray | None = None,
) -> dict[str, Any]:
    """A file against the model it came from, on the same photos; drops are positive losses.

    Returns:
        agreement_with_source; num_flips; drop_vs_source with its 95 % interval drop_low, drop_high;
        drop_vs_student; mcnemar_p; confidence_drift, by how much the file is surer of its answers
        than its source, with confidence_drift_low and _high; probability_moved, the mean share of
        probability that lies on other classes than the source's (total variation distance);
        half_point_power, the chance that as many photos show a drop of 0.5 points;
        detectable_drop, the smallest that they show in 80 of 100 cases.
    """
    ours, theirs = probs.argmax(axis=1), source_probs.argmax(axis=1)
    right, source_right = ours == labels, theirs == labels
    num_lost, num_won = int((source_right & ~right).sum()), int((right & ~source_right).sum())
    low, high = paired_interval(only_first=num_lost, only_second=num_won, n=len(labels))
    drift = probs.max(axis=1) - source_probs.max(axis=1)
    drift_low, drift_high = mean_interval(drift)
    student = None
    if student_probs is not None:
        student = float((student_probs.argmax(axis=1) == labels).mean() - right.mean())
    return {
        "agreement_with_source": float((ours == theirs).mean()),
        "num_flips": int((ours != theirs).sum()),
        "drop_vs_source": float(source_right.mean() - right.mean()),
        "drop_low": low,
        "drop_high": high,
        "drop_vs_student": student,
        "mcnemar_p": mcnemar_p(num_won, num_lost),
        "confidence_drift": float(drift.mean()),
        "confidence_drift_low": drift_low,
        "confidence_drift_high": drift_high,
        "probability_moved": float(np.abs(probs - source_probs).sum(axis=1).mean() / 2),
        **_power(len(labels), float((right != source_right).mean())),
    }
