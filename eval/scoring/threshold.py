"""The score below which a photo may show none of the classes (selective classification)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from eval.scoring.intervals import wilson_interval

ShareOfPhotos = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Threshold:
    """The lowest score of an answer that is accepted, as a file carries it.

    Attributes:
        score: the probability of the answer; lower ones mean "none of these".
        accuracy: the share of right answers that was asked for.
        coverage: the share of the validation photos that was accepted.
    """

    score: ShareOfPhotos
    accuracy: ShareOfPhotos
    coverage: ShareOfPhotos


@dataclass(frozen=True)
class AcceptedPhotos:
    """What a threshold does on photos that it was not chosen with: `threshold` in report.json.

    Attributes:
        threshold: as the file carries it.
        coverage: the share of the test photos that is accepted.
        accuracy: the share of right answers among them, with the ends of its 95 % interval; None
            if none is accepted.
    """

    threshold: Threshold
    coverage: float
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None


def fit_threshold(probs: np.ndarray, labels: np.ndarray, accuracy: float) -> Threshold | None:
    """The lowest score above which this share of the answers is right; None if none reaches it.

    Scores rank the photos, and the longest prefix that is right often enough is accepted (Geifman
    and El-Yaniv 2017, section 2, arXiv:1705.08500). The lowest of many scores is the luckiest one,
    so the share has to be reached with one standard error to spare. Without, other photos broke the
    promise in a quarter of our trials, and with it in one of 25 (docs/LOG.md).

    Args:
        probs: float, (examples, classes).
        labels: int, (examples,).
        accuracy: the share of accepted photos that must be right, below 1.
    """
    confidence = probs.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    confidence, right = confidence[order], (probs.argmax(axis=1) == labels)[order]
    num_accepted = np.arange(1, len(labels) + 1)
    # Photos of one score are accepted together.
    is_last_of_score = np.append(confidence[1:] != confidence[:-1], True)
    to_spare = np.sqrt(accuracy * (1 - accuracy) / num_accepted)
    reaches = right.cumsum() / num_accepted - to_spare >= accuracy - 1e-9
    ends = np.flatnonzero(is_last_of_score & reaches)
    if not len(ends):
        return None
    return Threshold(
        score=float(confidence[ends[-1]]),
        accuracy=accuracy,
        coverage=float(num_accepted[ends[-1]] / len(labels)),
    )


def accepted_photos(threshold: Threshold, probs: np.ndarray, labels: np.ndarray) -> AcceptedPhotos:
    """What a threshold does on other photos than those it was chosen with."""
    is_accepted = probs.max(axis=1) >= threshold.score
    num_accepted = int(is_accepted.sum())
    coverage = num_accepted / len(labels)
    if not num_accepted:
        return AcceptedPhotos(threshold, coverage, None, None, None)
    num_right = int((probs.argmax(axis=1) == labels)[is_accepted].sum())
    low, high = wilson_interval(num_right, num_accepted)
    return AcceptedPhotos(threshold, coverage, num_right / num_accepted, low, high)
