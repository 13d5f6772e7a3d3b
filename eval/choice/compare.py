"""Several runs side by side, each by the file it ships."""

from collections.abc import Callable
from typing import Any

import numpy as np

from configs.artifacts import file_sha256, read_json
from configs.errors import UserError
from configs.run_dir import RunDir
from eval.scoring.predictions import load_predictions
from eval.scoring.significance import mcnemar_p


def compare_runs(
    runs: list[RunDir],
    test_labels: Callable[[RunDir], np.ndarray],
    *,
    any_state: bool = False,
) -> list[dict[str, Any]]:
    """A row for each run: its models, the file it chose, and that file against the first run's.

    Latencies taken under other conditions than the first run's are no comparison: `unlike` says
    what differs, and `p50_ms` is None. `mcnemar_p` is None where the runs were tested on other
    photos.

    Args:
        test_labels: class indices of a run's test photos, in the order of its predictions.
        any_state: give `p50_ms` all the same.

    Raises:
        UserError: a run has no report, or chose no file.
    """
    reports = [read_json(run.path / "report.json") for run in runs]
    for run, report in zip(runs, reports, strict=True):
        if report["verdict"]["chosen_file"] is None:
            raise UserError(f"{run} chose no file. Export one, and make its report again.")
    first = _right(runs[0], reports[0], test_labels)
    conditions = [_conditions(report) for report in reports]
    return [
        {
            **_row(report, _unlike(conditions[0], own), any_state=any_state),
            "mcnemar_p": _p(first, _right(run, report, test_labels))
            if run != runs[0] and _same_photos(run, runs[0])
            else None,
        }
        for run, report, own in zip(runs, reports, conditions, strict=True)
    ]


def _chosen(report: dict[str, Any]) -> dict[str, Any]:
    name = report["verdict"]["chosen_file"]
    return next(row for row in report["files"] if row["name"] == name)


def _conditions(report: dict[str, Any]) -> dict[str, str]:
    """What must be alike for two latencies to be compared, as far as a report tells it."""
    row: dict[str, Any] = next(iter(_chosen(report)["latency"]), {})
    state = row.get("state", {})
    state = {**state, "cpu": state.get("cpu") or report["machine"]["cpu"]}
    kept = {key: state.get(key) for key in ("cpu", "cores", "governor")}
    kept |= {key: row[key] for key in ("device", "num_threads", "batch") if key in row}
    # Files of two formats have two runtimes; of one, it should be one version.
    runtime, _, version = row.get("runtime", "").partition(" ")
    return {
        key: str(value)
        for key, value in (kept | {runtime: version}).items()
        if key and value is not None
    }


def _unlike(first: dict[str, str], other: dict[str, str]) -> list[str]:
    """A few words for each condition that both reports know and that differs."""
    both = [key for key in first if key in other and first[key] != other[key]]
    return [f"{key} {other[key]}, not {first[key]}" for key in both]


def _row(report: dict[str, Any], unlike: list[str], *, any_state: bool) -> dict[str, Any]:
    models = {model["name"]: model["accuracy"]["top1"] for model in report["models"]}
    file = _chosen(report)
    latency = file["latency"][0] if file["latency"] and (any_state or not unlike) else {}
    scores = file["accuracy"]
    return {
        "run": report["run"],
        "num_test": report["data"]["num_test"],
        **{f"{role}_top1": models.get(role) for role in ("teacher", "student", "control")},
        "file": file["name"],
        **{key: scores[key] for key in ("top1", "top1_low", "top1_high", "drop_vs_student")},
        "p50_ms": latency.get("p50_ms"),
        "unlike": unlike,
        "file_bytes": file["file_bytes"],
    }


def _right(
    run: RunDir, report: dict[str, Any], test_labels: Callable[[RunDir], np.ndarray]
) -> np.ndarray:
    probs = load_predictions(run, report["verdict"]["chosen_file"])["test"]
    return np.asarray(probs.argmax(axis=1) == test_labels(run))


def _same_photos(run: RunDir, other: RunDir) -> bool:
    return file_sha256(run.photos_manifest) == file_sha256(other.photos_manifest)


def _p(first: np.ndarray, other: np.ndarray) -> float:
    return mcnemar_p(int((other & ~first).sum()), int((first & ~other).sum()))
