"""What distillation was worth: students against controls that learned from labels alone."""

from typing import Any

import numpy as np

from eval.scoring.intervals import paired_bootstrap
from eval.scoring.significance import sign_flip_p


def audit(
    *,
    students: list[np.ndarray],
    controls: list[np.ndarray],
    teacher: np.ndarray,
    labels: np.ndarray,
) -> dict[str, Any]:
    """Compare students with their controls, seed by seed and photo by photo.

    Args:
        students: probabilities (examples, classes) of the student of each seed.
        controls: of the control of each seed, in the same order.
        teacher: probabilities of the teacher.
        labels: int, (examples,).

    Returns:
        num_seeds; student_top1, control_top1 of each seed; mean_gain, the mean difference, with its
        95 % interval gain_low, gain_high over photos and seeds; gain_std over the seeds (None of
        one); p of the paired test over photos; gap_closed, the gain as a share of what the teacher
        is ahead of the control (None where it is not ahead); verdict (helped, hurt, no measurable
        difference) and the sentence that says so.
    """

    def right(probs: np.ndarray) -> np.ndarray:
        return (probs.argmax(axis=1) == labels).astype("float64")

    of_students = np.stack([right(probs) for probs in students])
    of_controls = np.stack([right(probs) for probs in controls])
    differences = of_students - of_controls
    gain = float(differences.mean())
    low, high = paired_bootstrap(differences)
    verdict = "helped" if low > 0 else "hurt" if high < 0 else "no measurable difference"
    ahead = float(right(teacher).mean() - of_controls.mean())
    result = {
        "num_seeds": len(students),
        "student_top1": of_students.mean(axis=1).tolist(),
        "control_top1": of_controls.mean(axis=1).tolist(),
        "mean_gain": gain,
        "gain_low": low,
        "gain_high": high,
        "gain_std": float(differences.mean(axis=1).std(ddof=1)) if len(students) > 1 else None,
        "p": sign_flip_p(differences.mean(axis=0)),
        "gap_closed": gain / ahead if ahead > 0 else None,
        "verdict": verdict,
    }
    return {**result, "sentence": _sentence(result)}


def _sentence(result: dict[str, Any]) -> str:
    num_seeds, gain = result["num_seeds"], 100 * result["mean_gain"]
    seeds = "one seed" if num_seeds == 1 else f"{num_seeds} seeds"
    said = {
        "helped": "Distillation helped",
        "hurt": "Distillation hurt",
        "no measurable difference": "Distillation made no measurable difference",
    }[result["verdict"]]
    if abs(gain) < 0.05:
        size = "as often right as its labels-only control"
    else:
        side = "above" if gain > 0 else "below"
        size = f"{abs(gain):.1f} points {side} its labels-only control"
    low, high = 100 * result["gain_low"], 100 * result["gain_high"]
    text = f"{said}: over {seeds} the student is {size} (95 %: {low:+.1f} to {high:+.1f})"
    if result["gap_closed"] is None:
        text += "; the teacher is not ahead of the control"
    elif result["verdict"] == "helped":
        text += f", which closes {result['gap_closed']:.0%} of the gap to the teacher"
    text += "."
    if num_seeds == 1:
        text += (
            " The interval holds the chance in the choice of photos, not that of another "
            "training seed; student.seeds: 3 measures both."
        )
    return text
