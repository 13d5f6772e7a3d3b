"""The trackers of a run: opened for a step, told the same, and left out when they fail."""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.artifacts import digest
from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.trackers import TRACKERS, Row, Tracker

log = logging.getLogger("potstill")

REPORTS = ("report.html", "report.json", "model_card.md", "experiment.yaml")
COLUMNS = ("name", "top1", "nll", "ece", "file_bytes", "p50_ms")


def check_trackers(experiment: Experiment) -> None:
    """Check that the packages of all trackers are here, before anything is trained.

    Raises:
        UserError: one is missing.
    """
    for choice in experiment.trackers:
        package = TRACKERS.facts(choice.name)["package"]
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"trackers names {choice.name}, and the package {package} is not installed. "
                f"Install it, or remove the name:\n  pip install 'potstill[{choice.name}]'"
            )


@dataclass
class Trackers:
    """All trackers of a run, by their names. One that fails is left out from then on."""

    opened: dict[str, Tracker]

    def log_epoch(self, model: str, epoch: int, values: Mapping[str, float]) -> None:
        """Tell all trackers an epoch of a model."""
        self._tell(lambda tracker: tracker.log_epoch(model, epoch, values))

    def log_report(self, rows: Sequence[Row], files: Sequence[Path]) -> None:
        """Tell all trackers the results of the run."""
        self._tell(lambda tracker: tracker.log_report(rows, files))

    def close(self) -> None:
        """Close all trackers."""
        self._tell(lambda tracker: tracker.close())

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.opened.items()):
            try:
                call(tracker)
            except Exception as error:
                # A server that is away must not end a training of hours.
                del self.opened[name]
                log.warning(
                    "tracker %s failed, and gets no more of this step: %s. history.csv and "
                    "report.json hold everything.",
                    name,
                    error,
                )


@contextmanager
def open_trackers(run: RunDir, experiment: Experiment) -> Iterator[Trackers]:
    """The trackers of a config, open within the block. They know the config already.

    Raises:
        UserError: one cannot be opened.
    """
    config = experiment.model_dump(mode="json", exclude={"trackers"})
    identity = digest([str(run.path.resolve()), config])
    trackers = Trackers({})
    try:
        for choice in experiment.trackers:
            trackers.opened[choice.name] = _open(choice.name, choice.options, run, identity, config)
        yield trackers
    finally:
        trackers.close()


def _open(
    name: str, options: Mapping[str, Any], run: RunDir, identity: str, config: Mapping[str, Any]
) -> Tracker:
    try:
        tracker: Tracker = TRACKERS[name](run=run, identity=identity, **options)
        tracker.log_config(dict(_flat(config)))
    except Exception as error:
        raise UserError(
            f"tracker {name} cannot be opened: {error}\nCorrect its options, or leave it out with "
            "--set trackers=[]"
        ) from error
    return tracker


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str | int | float) else str(value)


def publish_report(run: RunDir, experiment: Experiment, report: Mapping[str, Any]) -> None:
    """Tell the trackers of a run its results.

    Args:
        report: the content of report.json.
    """
    if not experiment.trackers:
        return
    rows = [_row(entry) for entry in [*report["models"], *report["files"]]]
    files = [run.file(entry["name"]) for entry in report["files"]]
    files += [run.path / name for name in REPORTS]
    with open_trackers(run, experiment) as trackers:
        trackers.log_report(rows, [path for path in files if path.exists()])


def _row(entry: Mapping[str, Any]) -> Row:
    latency = (entry.get("latency") or [{}])[0]
    measured = {**entry, **entry["accuracy"], **latency, "name": entry["name"]}
    return {column: measured.get(column) for column in COLUMNS}
