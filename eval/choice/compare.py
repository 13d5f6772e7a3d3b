"""Several runs side by side: their models, and the files they ship."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from configs.artifacts import file_sha256
from configs.run_dir import RunDir
from eval.choice.stored_report import StoredReport, load_report
from eval.scoring.predictions import load_predictions
from eval.scoring.significance import mcnemar_p


@dataclass(frozen=True)
class RunRow:
    """One run: its models, the file it chose, and that file against the first run's.

    Attributes:
        run: its name.
        teacher_top1: None where the run has no such model, and so for the student and the control.
        file: the file it chose; the scores are those of this file on the test photos.
        p50_ms: None where the file was not timed, or under other conditions than the first run's.
        unlike: what differs from the conditions of the first run's latency, in words.
        mcnemar_p: p-value that both files are equally often right; None for the first run, and
            where the runs were tested on other photos.
    """

    run: str
    num_test: int
    teacher_top1: float | None
    student_top1: float | None
    control_top1: float | None
    file: str
    top1: float
    top1_low: float | None
    top1_high: float | None
    drop_vs_student: float | None
    p50_ms: float | None
    unlike: list[str]
    file_bytes: int
    mcnemar_p: float | None


def compare_runs(
    runs: list[RunDir],
    test_labels: Callable[[RunDir], np.ndarray],
    *,
    any_state: bool = False,
) -> list[RunRow]:
    """A row for each run.

    Args:
        test_labels: class indices of a run's test photos, in the order of its predictions.
        any_state: give `p50_ms` even if it was measured under other conditions.

    Raises:
        UserError: a run has no report, or chose no file.
    """
    reports = [load_report(run) for run in runs]
    first_right = _right_answers(runs[0], reports[0], test_labels)
    first_conditions = _conditions(reports[0])
    rows = []
    for run, report in zip(runs, reports, strict=True):
        p = None
        right = _right_answers(run, report, test_labels)
        if run != runs[0] and _same_photos(run, runs[0]):
            p = mcnemar_p(int((right & ~first_right).sum()), int((first_right & ~right).sum()))
        unlike = _unlike(first_conditions, _conditions(report))
        rows.append(_row(report, unlike, p, with_latency=any_state or not unlike))
    return rows


def _conditions(report: StoredReport) -> dict[str, str]:
    """What must be equal for two latencies to be compared, as far as a report says it."""
    latency = report.file().first_latency
    # Files of two formats have two runtimes. Of one runtime, the version has to be the same.
    runtime, _, version = latency.runtime.partition(" ")
    conditions = {
        "cpu": latency.state.cpu or report.machine.cpu,
        "cores": None if latency.state.cores is None else list(latency.state.cores),
        "governor": latency.state.governor,
        "device": latency.device,
        "num_threads": latency.num_threads,
        "batch": latency.batch,
        runtime: version,
    }
    return {name: str(value) for name, value in conditions.items() if name and value is not None}


def _unlike(first: dict[str, str], other: dict[str, str]) -> list[str]:
    """A few words for each condition that both reports say and that differs."""
    differing = [name for name in first if name in other and first[name] != other[name]]
    return [f"{name} {other[name]}, not {first[name]}" for name in differing]


def _row(report: StoredReport, unlike: list[str], p: float | None, *, with_latency: bool) -> RunRow:
    file, top1 = report.file(), {model.name: model.accuracy.top1 for model in report.models}
    return RunRow(
        run=report.run,
        num_test=report.data.num_test,
        teacher_top1=top1.get("teacher"),
        student_top1=top1.get("student"),
        control_top1=top1.get("control"),
        file=file.name,
        top1=file.accuracy.top1,
        top1_low=file.accuracy.top1_low,
        top1_high=file.accuracy.top1_high,
        drop_vs_student=file.accuracy.drop_vs_student,
        p50_ms=file.first_latency.p50_ms if with_latency else None,
        unlike=unlike,
        file_bytes=file.file_bytes,
        mcnemar_p=p,
    )


def _right_answers(
    run: RunDir, report: StoredReport, test_labels: Callable[[RunDir], np.ndarray]
) -> np.ndarray:
    probs = load_predictions(run, report.file().name)["test"]
    return np.asarray(probs.argmax(axis=1) == test_labels(run))


def _same_photos(run: RunDir, other: RunDir) -> bool:
    return file_sha256(run.photos_manifest) == file_sha256(other.photos_manifest)
