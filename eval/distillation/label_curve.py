"""What a teacher was worth, in labels: how many of them its student's control needs to catch up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_SAMPLES = 2000


@dataclass(frozen=True)
class LabelCurve:
    """`label_curve` of report.json: controls with more and with fewer labels beside the student.

    Attributes:
        num_labels: labels that each control learned from, rising.
        control_top1: of each control on the test photos.
        student_labels: labels that the student had.
        student_top1: of the student on the test photos.
        worth: the number of labels at which the control is as good as the student, with the ends of
            its 95 % interval over the test photos; None where no control is as good.
        sentence: the result for people.
    """

    num_labels: list[int]
    control_top1: list[float]
    student_labels: int
    student_top1: float
    worth: float | None
    worth_low: float | None
    worth_high: float | None
    sentence: str


def label_curve(
    controls: Sequence[tuple[int, np.ndarray]], *, student_labels: int, students: np.ndarray
) -> LabelCurve:
    """The curve of the controls, and where the student meets it.

    Between two controls, top-1 rises with the logarithm of the number of labels. Beyond the last
    control nothing is guessed.

    Args:
        controls: labels of each control, and where it is right, float (seeds, examples).
        student_labels: labels that the student had.
        students: where the students are right, float (seeds, examples).
    """
    controls = sorted(controls, key=lambda control: control[0])
    num_labels = [number for number, _ in controls]
    # The seeds of a control belong together, and so do all answers about one photo.
    answers = np.stack([students.mean(axis=0), *(right.mean(axis=0) for _, right in controls)])
    top1 = answers.mean(axis=1)
    worth = _meeting(num_labels, top1[1:], top1[0])
    n, rng = answers.shape[1], np.random.default_rng(0)  # the same photos, the same interval
    samples = []
    for _ in range(NUM_SAMPLES):
        student, *of_controls = answers[:, rng.integers(n, size=n)].mean(axis=1)
        samples.append(_meeting(num_labels, np.array(of_controls), student))
    low, high = np.quantile(samples, [0.025, 0.975], method="nearest")
    return LabelCurve(
        num_labels=num_labels,
        control_top1=top1[1:].tolist(),
        student_labels=student_labels,
        student_top1=float(top1[0]),
        worth=_finite(worth),
        worth_low=_finite(low),
        worth_high=_finite(high),
        sentence=_sentence(student_labels, num_labels[-1], worth, float(low), float(high)),
    )


def _meeting(num_labels: list[int], control_top1: np.ndarray, student_top1: float) -> float:
    """The number of labels at which the controls reach the student: 0 below all of them, infinity
    above all of them."""
    # More labels do not hurt: where they seem to, that is chance.
    rising = np.maximum.accumulate(control_top1)
    if student_top1 > rising[-1]:
        return math.inf
    if student_top1 < rising[0]:
        return 0.0
    above = int(np.argmax(rising >= student_top1))
    if above == 0:
        return float(num_labels[0])
    low, high = rising[above - 1], rising[above]
    share = (student_top1 - low) / (high - low)
    logs = np.log(num_labels[above - 1 : above + 1])
    return float(np.exp(logs[0] + share * (logs[1] - logs[0])))


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) and number > 0 else None


def _sentence(student_labels: int, most: int, worth: float, low: float, high: float) -> str:
    text = f"The student had {student_labels} labels. "
    if worth == 0:
        return text + "Its control is better with fewer labels than any that was tried."
    if math.isinf(worth):
        text += f"No control is as good, not even the one with {most} labels"
    else:
        text += f"Its control needs {worth:.0f} to be as good"
    ends = f"at least {low:.0f}" if math.isinf(high) else f"{low:.0f} to {high:.0f}"
    if math.isinf(low):
        ends = f"more than {most}"
    text += f" (95 %: {ends}). "
    if low > student_labels:
        times = (
            f"more than {most / student_labels:.1f}"
            if math.isinf(worth)
            else (f"{worth / student_labels:.1f}")
        )
        return text + f"So the teacher is worth {times} times the labels."
    if high < student_labels:
        return text + "So the teacher cost labels."
    return text + "So the teacher replaced no labels beyond chance."
