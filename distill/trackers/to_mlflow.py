"""Curves, tables and files in MLflow: a folder, a database or a server."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.run_dir import RunDir
from distill.trackers import TRACKERS, Row, Tracker

IDENTITY = "potstill.identity"


@TRACKERS.add(package="mlflow")
def mlflow(
    *, run: RunDir, identity: str, experiment: str = "potstill", uri: str | None = None
) -> Tracker:
    """One MLflow run for each run directory and config.

    Args:
        identity: of the run and its config.
        experiment: the name of MLflow's experiment.
        uri: where MLflow stores; null: MLFLOW_TRACKING_URI, or `trackers/mlflow` of the run.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    return _MlflowRun(
        uri or (run.path / "trackers" / "mlflow").absolute().as_uri(), experiment, run, identity
    )


class _MlflowRun:
    def __init__(self, uri: str, experiment: str, run: RunDir, identity: str) -> None:
        if "://" not in uri or uri.startswith("file:"):
            # MLflow refuses its own file store without this.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        known = self.client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else self.client.create_experiment(experiment)
        found = self.client.search_runs([number], f"tags.`{IDENTITY}` = '{identity}'")
        if found:
            self.run_id = found[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            name = run.path.resolve().name
            made = self.client.create_run(number, tags={IDENTITY: identity}, run_name=name)
            self.run_id = made.info.run_id

    def log_config(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self.client.log_param(self.run_id, key, value)

    def log_epoch(self, model: str, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run_id, f"{model}/{name}", value, step=epoch)

    def log_report(self, rows: Sequence[Row], files: Sequence[Path]) -> None:
        for row in rows:
            for column, value in row.items():
                if isinstance(value, int | float):
                    self.client.log_metric(self.run_id, f"{row['name']}/{column}", value)
        self.client.log_dict(self.run_id, {"rows": [dict(row) for row in rows]}, "table.json")
        for path in files:
            self.client.log_artifact(self.run_id, str(path), "files")

    def close(self) -> None:
        self.client.set_terminated(self.run_id)
