"""The results of a run directory: `report.json`, `report.md` and `report.html`."""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from configs.run_dir import RunDir, read_json, write_json, write_text
from configs.schema import Experiment
from eval.accuracy import accuracy
from eval.audit import audit
from eval.choice import choose, loss_of
from eval.machine import machine
from eval.page import Details, Disagreement, render_html, render_markdown
from eval.results import (
    Photos,
    Reference,
    file_row,
    latency_path,
    load_latency,
    load_predictions,
)

MAX_DISAGREEMENTS = 12


@dataclass(frozen=True)
class RunPhotos:
    """The photos that the results are about."""

    classes: list[str]
    validation: Photos
    test: Photos


def write_report(
    run: RunDir, experiment: Experiment, *, photos: RunPhotos, models: list[str], files: list[str]
) -> dict[str, Any]:
    """Write the three reports of a run from what is measured; returns `report.json`.

    Args:
        models: names of the run's models, the teacher first.
        files: names of the run's files.
    """
    report, probs = build_report(run, experiment, photos=photos, models=models, files=files)
    details = _details(run, report, photos, probs)
    html, markdown = render_html(report, details), render_markdown(report, details)
    write_text(run.path / "report.md", markdown)
    write_text(run.path / "report.html", html)
    write_json(run.path / "report.json", report)
    return report


def build_report(
    run: RunDir, experiment: Experiment, *, photos: RunPhotos, models: list[str], files: list[str]
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """`report.json` as DESIGN.md has it, and all predictions by name and split."""
    probs = {name: load_predictions(run, name) for name in [*models, *files]}
    latency = load_latency(run, [device.name for device in experiment.evaluate.devices])
    teacher = probs["teacher"]["test"]
    rows = [
        _file_row(run, name, probs, photos.test, teacher, latency.get(name, [])) for name in files
    ]
    drops = {row["name"]: _drop(row, probs, photos.validation.labels) for row in rows}
    verdict = choose(rows, drops=drops, budget=experiment.compress.budget)
    facts = read_json(run.photos_manifest.with_suffix(".json"))
    counts = {k: v for k, v in facts.items() if k.startswith("num_")}
    report = {
        "run": run.path.resolve().name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": experiment.seed,
        "machine": _machine(run, experiment),
        "data": {"source": _source(experiment), "classes": photos.classes, **counts},
        "models": [_model_row(run, n, probs[n]["test"], photos.test, teacher) for n in models],
        "files": rows,
        "distillation": _distillation(run, experiment, photos.test, probs),
        "verdict": verdict,
    }
    return report, probs


def _distillation(
    run: RunDir,
    experiment: Experiment,
    test: Photos,
    probs: dict[str, dict[str, np.ndarray]],
) -> dict[str, Any] | None:
    if not experiment.student.control:
        return None

    def of_seeds(name: str) -> list[np.ndarray]:
        further = range(2, experiment.student.seeds + 1)
        return [
            probs[name]["test"],
            *(load_predictions(run, f"{name}-{number}")["test"] for number in further),
        ]

    return audit(
        students=of_seeds("student"),
        controls=of_seeds("control"),
        teacher=probs["teacher"]["test"],
        labels=test.labels,
    )


def _machine(run: RunDir, experiment: Experiment) -> dict[str, Any]:
    """Where the files were timed; this machine where they were not."""
    path = latency_path(run, experiment.evaluate.devices[0].name)
    return dict(read_json(path)["machine"]) if path.exists() else machine()


def _source(experiment: Experiment) -> str:
    path = experiment.data.path
    return experiment.data.source if path is None else f"{experiment.data.source} {path.name}"


def _drop(
    row: dict[str, Any], probs: dict[str, dict[str, np.ndarray]], labels: np.ndarray
) -> float:
    file, source, student = (
        probs[name]["validation"] for name in (row["name"], row["source"], "student")
    )
    return loss_of(file, source, student, labels)


def _model_row(
    run: RunDir, name: str, probs: np.ndarray, test: Photos, teacher: np.ndarray
) -> dict[str, Any]:
    facts = read_json(run.model_dir(name) / "manifest.json")
    kept = ("backbone", "input_shape", "num_parameters", "num_macs", "seconds_to_train")
    scores = accuracy(probs, test.labels, split="test", teacher_probs=teacher)
    return {"name": name, **{key: facts[key] for key in kept}, "accuracy": scores}


def _file_row(
    run: RunDir,
    name: str,
    probs: dict[str, dict[str, np.ndarray]],
    test: Photos,
    teacher: np.ndarray,
    latency: list[dict[str, Any]],
) -> dict[str, Any]:
    path = run.file(name)
    facts = read_json(path.with_name(name + ".json"))
    reference = Reference(
        source=probs[facts["source"]]["test"], student=probs["student"]["test"], teacher=teacher
    )
    return file_row(
        path,
        facts={**facts, "path": f"files/{name}"},
        probs=probs[name]["test"],
        photos=test,
        reference=reference,
        latency=latency,
    )


def _details(
    run: RunDir,
    report: dict[str, Any],
    photos: RunPhotos,
    probs: dict[str, dict[str, np.ndarray]],
) -> Details:
    chosen = report["verdict"]["chosen_file"]
    names = [model["name"] for model in report["models"]]
    confusion = None
    if chosen:
        counts = np.zeros((len(photos.classes),) * 2, int)
        np.add.at(counts, (photos.test.labels, probs[chosen]["test"].argmax(axis=1)), 1)
        confusion = counts.tolist()
    shown, file, num_disagreements = _disagreements(report, photos, probs)
    return Details(
        histories={name: rows for name in names if (rows := _history(run, name))},
        confusion=confusion,
        disagreements=shown,
        disagreeing_file=file,
        num_disagreements=num_disagreements,
    )


def _history(run: RunDir, name: str) -> list[dict[str, Any]]:
    path = run.model_dir(name) / "history.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def _disagreements(
    report: dict[str, Any], photos: RunPhotos, probs: dict[str, dict[str, np.ndarray]]
) -> tuple[list[Disagreement], str | None, int]:
    """Some test photos on which an int8 file left its source, that file, and how many there are.

    The chosen file if it is int8, else the first that is.
    """
    int8 = [row for row in report["files"] if "int8" in row["recipe"]]
    int8.sort(key=lambda row: row["name"] != report["verdict"]["chosen_file"])
    if not int8:
        return [], None, 0
    ours, theirs = probs[int8[0]["name"]]["test"], probs[int8[0]["source"]]["test"]
    differ = np.flatnonzero(ours.argmax(axis=1) != theirs.argmax(axis=1))
    # The surest changes of mind first: they tell the most.
    sure = ours.max(axis=1) + theirs.max(axis=1)
    num_disagreements = len(differ)
    differ = differ[np.argsort(-sure[differ], kind="stable")][:MAX_DISAGREEMENTS]
    shown = [
        Disagreement(
            photo=photos.test.paths[i],
            label=photos.classes[photos.test.labels[i]],
            source_answer=photos.classes[theirs[i].argmax()],
            source_confidence=float(theirs[i].max()),
            file_answer=photos.classes[ours[i].argmax()],
            file_confidence=float(ours[i].max()),
        )
        for i in differ
        if Path(photos.test.paths[i]).exists()  # a report can be made where the photos are not
    ]
    return shown, int8[0]["name"], num_disagreements
