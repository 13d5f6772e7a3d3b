"""The paths of the artifacts in a run directory."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDir:
    """The layout of one run directory."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def experiment(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def photos_manifest(self) -> Path:
        return self.path / "data" / "manifest.csv"

    def model_dir(self, name: str) -> Path:
        """The folder of a model: its own for teacher, student and control, else methods/<name>.

        Students and controls of further seeds are called student-2, control-2 and so on.
        """
        is_trained = re.fullmatch(r"teacher|(student|control)(-\d+)?", name)
        return self.path / name if is_trained else self.path / "methods" / name

    def model(self, name: str) -> Path:
        return self.model_dir(name) / "model.keras"

    def soft_labels(self, name: str) -> Path:
        return self.path / "soft_labels" / f"{name}.npy"

    def file(self, name: str) -> Path:
        return self.path / "files" / name

    def predictions(self, name: str) -> Path:
        """The file with a model's probabilities on the validation and test photos."""
        return self.path / "results" / "predictions" / f"{name}.npz"

    def corrupted_answers(self, name: str) -> Path:
        """The file with a model's answers on corrupted test photos."""
        return self.path / "results" / "corrupted" / f"{name}.npy"
