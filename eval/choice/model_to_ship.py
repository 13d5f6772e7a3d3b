"""Which model becomes files: the student, unless its teacher harmed it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.scoring.intervals import paired_bootstrap

TrainedModel = Literal["student", "control"]


@dataclass(frozen=True)
class ShippedModel:
    """The model that becomes files, and the evidence for it: `shipped` in report.json.

    Attributes:
        model: student or control.
        reason: for people.
        control_lead: top-1 of the control minus that of the student on the validation photos, with
            the ends of its 95 % interval; None without a control.
    """

    model: TrainedModel
    reason: str
    control_lead: float | None = None
    control_lead_low: float | None = None
    control_lead_high: float | None = None


def choose_model(ship: str, *, students: np.ndarray, controls: np.ndarray) -> ShippedModel:
    """The control, if it is better than the student on the validation photos beyond chance.

    Args:
        ship: auto, or the model that the config names.
        students: 1.0 where the student is right and 0.0 where it is wrong, (seeds, examples).
        controls: of the controls.
    """
    leads = controls - students
    lead, (low, high) = float(leads.mean()), paired_bootstrap(leads)
    evidence = (
        f"on the validation photos the control is {abs(100 * lead):.1f} points "
        f"{'above' if lead >= 0 else 'below'} the student (95 %: {100 * low:+.1f} to "
        f"{100 * high:+.1f})"
    )
    if ship != "auto":
        model: TrainedModel = "control" if ship == "control" else "student"
        return ShippedModel(model, f"student.ship is {ship}; {evidence}", lead, low, high)
    if low > 0:
        reason = (
            f"the teacher harmed the student: {evidence}. So files are made from the control. "
            "student.ship: student makes them from the student all the same"
        )
        return ShippedModel("control", reason, lead, low, high)
    return ShippedModel("student", evidence, lead, low, high)
