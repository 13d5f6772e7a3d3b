"""Scores of a file on photos."""

from typing import Any

import numpy as np

from eval.scoring.calibration import (
    calibration_interval,
    expected_calibration_error,
    negative_log_likelihood,
)
from eval.scoring.intervals import mean_interval, paired_interval, wilson_interval
from eval.scoring.significance import detectable_drop, mcnemar_p, mcnemar_power


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


def top_k(probs: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of examples whose label is among the k most probable classes.

    Ours, because sklearn's top_k_accuracy_score prefers later classes where probabilities are
    equal, and argmax prefers earlier ones.
    """
    best = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 over the classes that are a label or an answer of at least one example."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average="macro"))
