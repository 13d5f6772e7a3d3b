"""Where each artifact of a run lives."""

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
        """teacher, student and control lie at the top, what a method made under methods/.

        Further seeds are student-2, control-2 and so on.
        """
        top = re.fullmatch(r"teacher|(student|control)(-\d+)?", name)
        return self.path / name if top else self.path / "methods" / name

    def model(self, name: str) -> Path:
        return self.model_dir(name) / "model.keras"

    def soft_labels(self, name: str) -> Path:
        return self.path / "soft_labels" / f"{name}.npy"

    def file(self, name: str) -> Path:
        return self.path / "files" / name

    def predictions(self, name: str) -> Path:
        """Probabilities of one model or file on the validation and test photos."""
        return self.path / "results" / "predictions" / f"{name}.npz"

    def corrupted_answers(self, name: str) -> Path:
        """Answers of one model or file on corrupted test photos."""
        return self.path / "results" / "corrupted" / f"{name}.npy"
