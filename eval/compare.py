"""Several runs side by side, each by the file it ships."""

from collections.abc import Callable
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.run_dir import RunDir, file_sha256, read_json
from eval.results import load_predictions
from eval.statistics import mcnemar_p


def compare_runs(
    runs: list[RunDir], test_labels: Callable[[RunDir], np.ndarray]
) -> list[dict[str, Any]]:
    """A row for each run: its models, the file it chose, and that file against the first run's.

    Latencies of different machines are no comparison: `p50_ms` is None on another machine than
    the first run's. `mcnemar_p` is None where the runs were tested on other photos.

    Args:
        test_labels: class indices of a run's test photos, in the order of its predictions.

    Raises:
        UserError: a run has no report, or chose no file.
    """
    reports = [read_json(run.path / "report.json") for run in runs]
    for run, report in zip(runs, reports, strict=True):
        if report["verdict"]["chosen_file"] is None:
            raise UserError(f"{run} chose no file. Export one, and make its report again.")
    first = _right(runs[0], reports[0], test_labels)
    return [
        {
            **_row(report, same_machine=report["machine"] == reports[0]["machine"]),
            "mcnemar_p": _p(first, _right(run, report, test_labels))
            if run != runs[0] and _same_photos(run, runs[0])
            else None,
        }
        for run, report in zip(runs, reports, strict=True)
    ]


def _row(report: dict[str, Any], *, same_machine: bool) -> dict[str, Any]:
    models = {model["name"]: model["accuracy"]["top1"] for model in report["models"]}
    name = report["verdict"]["chosen_file"]
    (file,) = [row for row in report["files"] if row["name"] == name]
    latency = file["latency"][0] if file["latency"] and same_machine else {}
    scores = file["accuracy"]
    return {
        "run": report["run"],
        "num_test": report["data"]["num_test"],
        **{f"{role}_top1": models.get(role) for role in ("teacher", "student", "control")},
        "file": name,
        **{key: scores[key] for key in ("top1", "top1_low", "top1_high", "drop_vs_student")},
        "p50_ms": latency.get("p50_ms"),
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
