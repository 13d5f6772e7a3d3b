"""Scores of models and files on photos, alone and against the model a file was made from."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from eval.scoring.calibration import (
    calibration_interval,
    expected_calibration_error,
    negative_log_likelihood,
)
from eval.scoring.intervals import mean_interval, paired_interval, wilson_interval
from eval.scoring.significance import detectable_drop, mcnemar_p, mcnemar_power


@dataclass(frozen=True)
class Accuracy:
    """Scores of one model or file: `accuracy` in report.json.

    Attributes:
        split: the photos it was scored on.
        n: their number.
        top1: share of right answers, with the ends of its 95 % interval.
        nll: negative log-likelihood.
        ece: expected calibration error, with the ends of its 95 % interval.
        agreement_with_teacher: share of photos with the teacher's answer; None without a teacher.
    """

    split: str
    n: int
    top1: float
    top1_low: float
    top1_high: float
    top5: float
    macro_f1: float
    nll: float
    ece: float
    ece_low: float
    ece_high: float
    agreement_with_teacher: float | None


@dataclass(frozen=True)
class Agreement:
    """A file against its model on photos without labels: `agreement` of a row.

    Attributes:
        n: photos.
        agreement: share of photos with the same answer, with the ends of its 95 % interval.
        expected_drop: top-1 that the file is expected to lose, with the ends of its 95 % interval.
            It takes the probabilities of the model as they are.
    """

    n: int
    agreement: Annotated[float, Field(alias="agreement_with_source")]
    agreement_low: float
    agreement_high: float
    expected_drop: float
    expected_low: float
    expected_high: float


@dataclass(frozen=True)
class Comparison:
    """A file against the model it was made from, on the same photos.

    Attributes:
        agreement: share of photos with the same answer.
        num_flips: photos with another answer.
        drop: top-1 that the file loses, with the ends of its 95 % interval; negative for a gain.
        drop_vs_student: top-1 that it loses against the student; None where that is not asked for.
        mcnemar_p: p-value that both are equally often right.
        confidence_drift: mean confidence of the file minus that of its parent, with the ends of its
            95 % interval.
        probability_moved: mean share of probability that lies on other classes than the parent's
            (total variation distance).
        half_point_power: the chance that so many photos show a drop of 0.5 points, if answers
            change as often as they did.
        detectable_drop: the smallest drop that they show in 80 of 100 cases.
    """

    agreement: Annotated[float, Field(alias="agreement_with_source")]
    num_flips: int
    drop: Annotated[float, Field(alias="drop_vs_source")]
    drop_low: float
    drop_high: float
    drop_vs_student: float | None
    mcnemar_p: float
    confidence_drift: float
    confidence_drift_low: float
    confidence_drift_high: float
    probability_moved: float
    half_point_power: float
    detectable_drop: float


def accuracy(
    probs: np.ndarray, labels: np.ndarray, *, split: str, teacher_probs: np.ndarray | None = None
) -> Accuracy:
    """Scores of probabilities, (examples, classes), against labels."""
    predicted = probs.argmax(axis=1)
    num_right, n = int((predicted == labels).sum()), len(labels)
    low, high = wilson_interval(num_right, n)
    ece_low, ece_high = calibration_interval(probs, labels)
    agreement = None
    if teacher_probs is not None:
        agreement = float((predicted == teacher_probs.argmax(axis=1)).mean())
    return Accuracy(
        split=split,
        n=n,
        top1=num_right / n,
        top1_low=low,
        top1_high=high,
        top5=top_k(probs, labels, 5),
        macro_f1=macro_f1(predicted, labels),
        nll=negative_log_likelihood(probs, labels),
        ece=expected_calibration_error(probs, labels),
        ece_low=ece_low,
        ece_high=ece_high,
        agreement_with_teacher=agreement,
    )


def compare(
    probs: np.ndarray,
    parent_probs: np.ndarray,
    labels: np.ndarray,
    student_probs: np.ndarray | None = None,
) -> Comparison:
    """A file against the model it was made from.

    Args:
        probs: of the file, (examples, classes).
        parent_probs: of the model.
        student_probs: of the student, for `drop_vs_student`.
    """
    answers, parent_answers = probs.argmax(axis=1), parent_probs.argmax(axis=1)
    right, parent_right = answers == labels, parent_answers == labels
    num_lost, num_won = int((parent_right & ~right).sum()), int((right & ~parent_right).sum())
    n = len(labels)
    low, high = paired_interval(only_first=num_lost, only_second=num_won, n=n)
    drift = probs.max(axis=1) - parent_probs.max(axis=1)
    drift_low, drift_high = mean_interval(drift)
    drop_vs_student = None
    if student_probs is not None:
        drop_vs_student = float((student_probs.argmax(axis=1) == labels).mean() - right.mean())
    discordant = float((right != parent_right).mean())
    return Comparison(
        agreement=float((answers == parent_answers).mean()),
        num_flips=int((answers != parent_answers).sum()),
        drop=float(parent_right.mean() - right.mean()),
        drop_low=low,
        drop_high=high,
        drop_vs_student=drop_vs_student,
        mcnemar_p=mcnemar_p(num_won, num_lost),
        confidence_drift=float(drift.mean()),
        confidence_drift_low=drift_low,
        confidence_drift_high=drift_high,
        probability_moved=float(np.abs(probs - parent_probs).sum(axis=1).mean() / 2),
        half_point_power=mcnemar_power(n=n, drop=0.005, discordant=max(discordant, 0.005)),
        detectable_drop=detectable_drop(n=n, discordant=discordant),
    )


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
