"""What the teacher of a run was worth, from the stored answers of its models."""

import numpy as np

from configs.artifacts import read_json
from configs.run_dir import RunDir
from configs.schema.training import StudentConfig
from eval.distillation.audit import Distillation, audit
from eval.distillation.label_curve import LabelCurve, label_curve
from eval.scoring.predictions import load_predictions


def distillation_of(run: RunDir, config: StudentConfig, labels: np.ndarray) -> Distillation | None:
    """Students against their controls; None without a control.

    Args:
        labels: of the test photos, int (examples,).
    """
    if not config.control:
        return None

    def of_seeds(name: str) -> list[np.ndarray]:
        further = [f"{name}-{number}" for number in range(2, config.seeds + 1)]
        return [_test_probs(run, seed) for seed in (name, *further)]

    return audit(
        students=of_seeds("student"),
        controls=of_seeds("control"),
        teacher=_test_probs(run, "teacher"),
        labels=labels,
    )


def label_curve_of(run: RunDir, names: tuple[str, ...], labels: np.ndarray) -> LabelCurve | None:
    """The label curve; None if there are no controls for it.

    Args:
        names: of the controls on shares of the labels.
        labels: of the test photos, int (examples,).
    """
    if not names:
        return None

    def right(name: str) -> np.ndarray:
        return (_test_probs(run, name).argmax(axis=1) == labels).astype("float64")[None]

    shown = int(read_json(run.photos_manifest.with_suffix(".json"))["num_train"])
    by_number = {
        int(read_json(run.model_dir(name) / "manifest.json")["num_labels"]): name for name in names
    }
    by_number[shown] = "control"  # a share may come to the labels that are shown
    return label_curve(
        [(number, right(name)) for number, name in by_number.items()],
        student_labels=shown,
        students=right("student"),
    )


def _test_probs(run: RunDir, name: str) -> np.ndarray:
    return load_predictions(run, name)["test"]
