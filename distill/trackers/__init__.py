"""`TRACKERS`: programs that show the curves and results of many runs.

There is one file for each. Every run writes its own CSV and JSON files, whatever tracks it.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from configs.registry import Registry

TRACKERS = Registry("tracker")
"""Functions (run, identity, options) -> `Tracker`. A fact names the package that they import."""

Row = Mapping[str, Any]
"""One row of the report's table: a model or a file, with its scores."""


class Tracker(Protocol):
    """What a run tells a tracker. A run that continues is told to the same place."""

    def log_config(self, values: Mapping[str, Any]) -> None:
        """Settings by their keys, as in student.epochs."""

    def log_epoch(self, model: str, epoch: int, values: Mapping[str, float]) -> None:
        """One epoch of a model, counted from 1."""

    def log_report(self, rows: Sequence[Row], files: Sequence[Path]) -> None:
        """The table of the report, and the files of the run."""

    def close(self) -> None:
        """Everything is written when this returns."""


for _name in ("to_mlflow", "to_tensorboard", "to_wandb"):
    importlib.import_module(f"{__name__}.{_name}")
