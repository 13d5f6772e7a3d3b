"""What a file loses in accuracy: the drop that is counted, and the one that is expected."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from eval.scoring.accuracy import Agreement
from eval.scoring.calibration import fitted_temperature, tempered
from eval.scoring.intervals import Z_95, paired_interval, wilson_interval

SAME_MODEL = 1e-3
"""Two models are one, written in another way, if no probability differs by more than this."""

DecidedBy = Literal["expected", "counted", "counted_lower_bound"]


@dataclass(frozen=True)
class Drop:
    """Top-1 that a file loses against the model that it stands for, as a share.

    Attributes:
        decisive: the drop that files are chosen by.
        counted: right answers of the model minus right answers of the file; None without labels.
        decided_by: what `decisive` is: the expected drop, the counted drop, or the lower end of
            the counted drop's interval.
    """

    decisive: float
    counted: float | None
    decided_by: DecidedBy

    @classmethod
    def of_count(cls, counted: float) -> "Drop":
        """A drop that is decided by counting alone."""
        return cls(counted, counted, "counted")

    def __str__(self) -> str:
        points = 100 * self.decisive
        if self.counted is None:
            return f"is expected to lose {points:.2f} points (without labels nothing is counted)"
        counted = 100 * self.counted
        by_count = f"counted: {abs(counted):.2f} {'gained' if counted < 0 else 'lost'}"
        if self.decided_by == "expected":
            return f"is expected to lose {points:.2f} points ({by_count})"
        if self.decided_by == "counted_lower_bound":
            return f"loses at least {points:.2f} points ({by_count})"
        return f"{'gains' if counted < 0 else 'loses'} {abs(counted):.2f} points"


@dataclass(frozen=True)
class RoundingDrop:
    """What rounding a model costs, as far as photos show it.

    Attributes:
        n: photos.
        agreement: share of photos with the same answer.
        counted: right answers of the model minus right answers of the file, as a share, with the
            ends of its 95 % interval; None without labels.
        expected: what `expected_drop` returns, with the ends of its 95 % interval.
        decisive: the expected drop, unless the count contradicts it beyond chance.
    """

    n: int
    agreement: float
    counted: Annotated[float | None, Field(alias="drop")]
    counted_low: Annotated[float | None, Field(alias="drop_low")]
    counted_high: Annotated[float | None, Field(alias="drop_high")]
    expected: Annotated[float, Field(alias="expected_drop")]
    expected_low: float
    expected_high: float
    decisive: Annotated[float, Field(alias="loss")]
    decided_by: DecidedBy

    @property
    def drop(self) -> Drop:
        """The decisive drop, without the evidence for it."""
        return Drop(self.decisive, self.counted, self.decided_by)

    def by_count(self) -> "RoundingDrop":
        """The same, decided by counting: for a model that was trained further."""
        if self.counted is None:
            raise ValueError("nothing was counted")
        return replace(self, decisive=self.counted, decided_by="counted")


def drop_by_rounding(
    probs: np.ndarray, parent_probs: np.ndarray, labels: np.ndarray | None
) -> RoundingDrop:
    """What a file loses that rounds the model `parent_probs` are of.

    Args:
        probs: of the file, (examples, classes).
        labels: None if nobody knows them. Then the expected drop alone decides.
    """
    answers, parent_answers = probs.argmax(axis=1), parent_probs.argmax(axis=1)
    if labels is None:
        expected, expected_low, expected_high = expected_drop(probs, parent_probs, None)
        return RoundingDrop(
            n=len(probs),
            agreement=float((answers == parent_answers).mean()),
            counted=None,
            counted_low=None,
            counted_high=None,
            expected=expected,
            expected_low=expected_low,
            expected_high=expected_high,
            decisive=expected,
            decided_by="expected",
        )
    is_right, parent_is_right = answers == labels, parent_answers == labels
    num_lost = int((parent_is_right & ~is_right).sum())
    num_won = int((is_right & ~parent_is_right).sum())
    low, high = paired_interval(only_first=num_lost, only_second=num_won, n=len(labels))
    expected, expected_low, expected_high = expected_drop(probs, parent_probs, labels)
    return RoundingDrop(
        n=len(labels),
        agreement=float((answers == parent_answers).mean()),
        counted=(num_lost - num_won) / len(labels),
        counted_low=low,
        counted_high=high,
        expected=expected,
        expected_low=expected_low,
        expected_high=expected_high,
        decisive=max(expected, low),
        decided_by="expected" if expected >= low else "counted_lower_bound",
    )


def agreement_of(probs: np.ndarray, parent_probs: np.ndarray) -> Agreement:
    """How far a file answers as its model, on photos without labels."""
    drop = drop_by_rounding(probs, parent_probs, None)
    num_same = round(drop.agreement * drop.n)
    low, high = wilson_interval(num_same, drop.n)
    return Agreement(
        n=drop.n,
        agreement=drop.agreement,
        agreement_low=low,
        agreement_high=high,
        expected_drop=drop.expected,
        expected_low=drop.expected_low,
        expected_high=drop.expected_high,
    )


def drop_of(
    probs: np.ndarray,
    parent_probs: np.ndarray,
    student_probs: np.ndarray,
    labels: np.ndarray | None,
) -> Drop:
    """What a file loses against the student.

    A file of another model (a pruned one) is decided by counting. A file of the student, or of a
    model that computes the same, is decided by what rounding costs.
    """
    if labels is None or np.abs(parent_probs - student_probs).max() <= SAME_MODEL:
        return drop_by_rounding(probs, student_probs, labels).drop
    top1, student_top1 = (
        float((p.argmax(axis=1) == labels).mean()) for p in (probs, student_probs)
    )
    return Drop.of_count(student_top1 - top1)


def expected_drop(
    probs: np.ndarray, parent_probs: np.ndarray, labels: np.ndarray | None
) -> tuple[float, float, float]:
    """Top-1 that rounding a model is expected to cost, and the ends of its 95 % interval.

    An answer that rounding changed costs what the model itself thought more likely of its own
    answer than of the new one. The model's probabilities are calibrated on the labels first. This
    assumes that rounding errors are independent of the labels, given the model's probabilities. So
    it holds for files of the same model, and not for a model that was trained further.

    A few hundred photos are as precise here as several thousand are for counting, because counting
    adds the chance in the labels (a Rao-Blackwell estimate of the drop; docs/LOG.md compares the
    two).

    Args:
        probs: of the rounded model, (examples, classes).
        parent_probs: of the model itself.
        labels: to calibrate `parent_probs` by; without them these count as they are.
    """
    own, new = parent_probs.argmax(axis=1), probs.argmax(axis=1)
    changed = np.flatnonzero(own != new)
    costs = np.zeros(0)
    if len(changed):
        temperature = 1.0 if labels is None else fitted_temperature(parent_probs, labels)
        calibrated = tempered(parent_probs, temperature)
        costs = calibrated[changed, own[changed]] - calibrated[changed, new[changed]]
    low, high = cost_interval(costs, len(probs))
    return float(costs.sum()) / len(probs), low, high


def cost_interval(costs: np.ndarray, n: int) -> tuple[float, float]:
    """The 95 % interval of the mean cost of an answer, where most answers did not change.

    This is Wilson's interval of a share (`wilson_interval`), for costs between 0 and 1 instead of
    wrong or right. Its variance is `size * mean - mean**2`, where `size` is the sum of the squared
    costs divided by their sum; if every cost is 1, that is Wilson's own. A few changed answers say
    little about `size`. So z^2 / 2 answers of cost 1 are added to them, the number of successes
    that Wilson's interval adds. Then no change and no larger cost ever lowers the upper end, which
    begins at z^2 / (n + z^2) where no answer changed. A normal interval does not have this
    property: it is far too narrow for one to ten changes.

    Args:
        costs: float in 0..1, one for each changed answer.
        n: all answers.
    """
    unseen = Z_95**2 / 2
    total = float(costs.sum())
    size = (float((costs**2).sum()) + unseen) / (total + unseen)
    middle = (total + size * unseen) / (n + Z_95**2)
    variance = size * total - total**2 / n + size**2 * unseen / 2
    half = Z_95 / (n + Z_95**2) * math.sqrt(variance)
    return max(middle - half, 0.0), middle + half
