"""Curves, tables and files in Weights & Biases, online or offline."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from configs.run_dir import RunDir
from distill.trackers import TRACKERS, Row, Tracker


@TRACKERS.add(package="wandb")
def wandb(
    *,
    run: RunDir,
    identity: str,
    project: str = "potstill",
    mode: Literal["online", "offline"] | None = None,
) -> Tracker:
    """One W&B run for each run directory and config.

    Args:
        identity: of the run and its config; a run that continues has the same.
        mode: offline: files in `trackers/wandb` of the run, for `wandb sync`. null: WANDB_MODE, or
            online.
    """
    return _WandbRun(run, identity, project, mode)


def _wait_a_second(folder: Path) -> None:
    """W&B names folders by the second. Two of one second would be one, and the first be lost."""
    written = [path.stat().st_ctime for path in folder.glob("*run-*")]
    time.sleep(max(max(written, default=0.0) + 1.1 - time.time(), 0.0))


class _WandbRun:
    def __init__(self, run: RunDir, identity: str, project: str, mode: Any) -> None:
        import wandb

        folder = run.path / "trackers"
        folder.mkdir(parents=True, exist_ok=True)
        _wait_a_second(folder / "wandb")
        self.library = wandb
        self.name = run.path.resolve().name
        self.run = wandb.init(
            project=project,
            name=self.name,
            id=identity,
            resume="allow",
            dir=folder,
            mode=mode,
            # It would take over the output of this process, and measure the machine.
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self.models: set[str] = set()

    def log_config(self, values: Mapping[str, Any]) -> None:
        self.run.config.update(dict(values), allow_val_change=True)

    def log_epoch(self, model: str, epoch: int, values: Mapping[str, float]) -> None:
        if model not in self.models:
            self.run.define_metric(f"{model}/*", step_metric=f"{model}/epoch")
            self.models.add(model)
        named = {f"{model}/{name}": value for name, value in values.items()}
        self.run.log({f"{model}/epoch": epoch, **named})

    def log_report(self, rows: Sequence[Row], files: Sequence[Path]) -> None:
        columns = list(rows[0]) if rows else []
        data = [[row[column] for column in columns] for row in rows]
        self.run.log({"report": self.library.Table(columns=columns, data=data)})
        artifact = self.library.Artifact(f"{self.name}-files", type="files")
        for path in files:
            artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def close(self) -> None:
        self.run.finish()
        # The process that writes may have records left when `finish` returns.
        self.library.teardown()
