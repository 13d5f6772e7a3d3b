"""What distillation was worth: students against controls that learned from labels alone."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.scoring.intervals import paired_bootstrap
from eval.scoring.significance import sign_flip_p

Outcome = Literal["helped", "hurt", "no measurable difference"]


@dataclass(frozen=True)
class Distillation:
    """`distillation` of report.json: students compared with their controls.

    Attributes:
        student_top1, control_top1: of each seed.
        mean_gain: the mean difference, with the ends of its 95 % interval over photos and seeds.
        gain_std: standard deviation over the seeds; None with one seed.
        p: of the paired test over photos.
        gap_closed: the gain as a share of the teacher's lead over the control; None if the teacher
            does not lead.
        sentence: the verdict for people.
    """

    num_seeds: int
    student_top1: list[float]
    control_top1: list[float]
    mean_gain: float
    gain_low: float
    gain_high: float
    gain_std: float | None
    p: float
    gap_closed: float | None
    verdict: Outcome
    sentence: str


def audit(
    *,
    students: list[np.ndarray],
    controls: list[np.ndarray],
    teacher: np.ndarray,
    labels: np.ndarray,
) -> Distillation:
    """Compare students with their controls, seed by seed and photo by photo.

    Args:
        students: probabilities (examples, classes) of the student of each seed.
        controls: of the control of each seed, in the same order.
        teacher: probabilities of the teacher.
        labels: int, (examples,).
    """

    def right(probs: np.ndarray) -> np.ndarray:
        return (probs.argmax(axis=1) == labels).astype("float64")

    of_students = np.stack([right(probs) for probs in students])
    of_controls = np.stack([right(probs) for probs in controls])
    differences = of_students - of_controls
    gain = float(differences.mean())
    low, high = paired_bootstrap(differences)
    verdict: Outcome = "no measurable difference"
    if low > 0 or high < 0:
        verdict = "helped" if low > 0 else "hurt"
    lead = float(right(teacher).mean() - of_controls.mean())
    gap_closed = gain / lead if lead > 0 else None
    return Distillation(
        num_seeds=len(students),
        student_top1=of_students.mean(axis=1).tolist(),
        control_top1=of_controls.mean(axis=1).tolist(),
        mean_gain=gain,
        gain_low=low,
        gain_high=high,
        gain_std=float(differences.mean(axis=1).std(ddof=1)) if len(students) > 1 else None,
        p=sign_flip_p(differences.mean(axis=0)),
        gap_closed=gap_closed,
        verdict=verdict,
        sentence=_sentence(verdict, len(students), (gain, low, high), gap_closed),
    )


def _sentence(
    verdict: Outcome,
    num_seeds: int,
    gain_with_interval: tuple[float, float, float],
    gap_closed: float | None,
) -> str:
    gain, low, high = (100 * share for share in gain_with_interval)
    seeds = "one seed" if num_seeds == 1 else f"{num_seeds} seeds"
    result = {
        "helped": "Distillation helped",
        "hurt": "Distillation hurt",
        "no measurable difference": "Distillation made no measurable difference",
    }[verdict]
    if abs(gain) < 0.05:
        size = "as often right as its control"
    else:
        size = f"{abs(gain):.1f} points {'above' if gain > 0 else 'below'} its control"
    text = f"{result}: over {seeds} the student is {size} (95 %: {low:+.1f} to {high:+.1f})"
    if gap_closed is None:
        text += "; the teacher is not better than the control"
    elif verdict == "helped" and gap_closed > 1:
        text += ", and it passes its teacher"
    elif verdict == "helped":
        text += f", which closes {gap_closed:.0%} of the gap to the teacher"
    text += "."
    if num_seeds == 1:
        text += (
            " The interval covers the choice of photos, not the choice of the training seed; "
            "student.seeds: 3 measures both."
        )
    return text
