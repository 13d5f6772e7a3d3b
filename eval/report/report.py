"""The results of a run directory: `report.json`, `.md` and `.html`, and `model_card.md`."""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from configs.artifacts import (
    file_sha256,
    read_json,
    write_json,
    write_text,
)
from configs.records import to_json
from configs.resume import output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from eval.choice.drop import drop_of
from eval.choice.file_to_ship import MeasuredFile, choose
from eval.devices.machine import installed_packages, this_machine
from eval.devices.registry import device_label
from eval.report.audit import Distillation, audit
from eval.report.costs import step_costs
from eval.report.failures import confusion_counts, flips_by_class, galleries
from eval.report.html import Details, ReportJson, render_html, render_markdown
from eval.report.model_card import render_card
from eval.scoring.accuracy import accuracy
from eval.scoring.corruption.photos import corrupted_photos
from eval.scoring.corruption.robustness import robustness
from eval.scoring.file_rows import FileRow, References, file_row
from eval.scoring.predictions import Photos, load_predictions
from eval.timing.latency import Latency
from eval.timing.results import load_latency, load_machine, load_packages


@dataclass(frozen=True)
class RunPhotos:
    """The photos that the results were measured on."""

    classes: list[str]
    validation: Photos
    test: Photos


@dataclass(frozen=True)
class BuiltReport:
    """The content of the reports of a run.

    Attributes:
        value: report.json.
        files: the rows of the files.
        test_probs: probabilities on the test photos, by the name of a model or file.
    """

    value: ReportJson
    files: list[FileRow]
    chosen_file: str | None
    test_probs: dict[str, np.ndarray]


def write_report(
    run: RunDir, experiment: Experiment, *, photos: RunPhotos, models: list[str], files: list[str]
) -> ReportJson:
    """Write the reports of a run and its model card; returns `report.json`.

    Args:
        models: names of the run's models, the teacher first.
        files: names of the run's files.
    """
    built = build_report(run, experiment, photos=photos, models=models, files=files)
    report, details = built.value, _details(run, built, photos, models)
    html, markdown = render_html(report, details), render_markdown(report, details)
    write_text(run.path / "report.md", markdown)
    write_text(run.path / "model_card.md", render_card(report, experiment))
    write_text(run.path / "report.html", html)
    write_json(run.path / "report.json", report)
    return report


def build_report(
    run: RunDir, experiment: Experiment, *, photos: RunPhotos, models: list[str], files: list[str]
) -> BuiltReport:
    """Everything that the reports of a run show; arguments as of `write_report`."""
    probs = {name: load_predictions(run, name) for name in [*models, *files]}
    devices = [device_label(d.name, d.options) for d in experiment.evaluate.devices]
    latency = load_latency(run, devices, files)
    teacher = probs["teacher"]["test"]
    rows = [_file_row(run, name, probs, photos, teacher, latency.get(name, [])) for name in files]
    measured = [_measured(row, probs, photos.validation.labels) for row in rows]
    verdict = choose(measured, budget=experiment.compress.budget)
    facts = read_json(run.photos_manifest.with_suffix(".json"))
    counts = {k: v for k, v in facts.items() if k.startswith("num_")}
    tested = {name: splits["test"] for name, splits in probs.items()}
    timed_on = next((row.latency[0].device for row in rows if row.latency), None)
    report = {
        "run": run.path.resolve().name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": experiment.seed,
        "machine": to_json(load_machine(run, timed_on) if timed_on else this_machine()),
        "data": {"source": _source(experiment), "classes": photos.classes, **counts},
        "models": [_model_row(run, n, probs[n]["test"], photos.test, teacher) for n in models],
        "files": [_file_entry(run, row, tested, photos) for row in rows],
        "distillation": to_json(_distillation(run, experiment, photos.test, probs)),
        "steps": to_json(
            step_costs(
                models=[name for name in models if name not in ("teacher", "control")],
                files=rows,
                chosen=verdict.chosen_file,
                probs=tested,
                labels=photos.test.labels,
            )
        ),
        "robustness": _robustness(run, experiment, photos.test, tested, rows, verdict.chosen_file),
        "provenance": {
            "config_sha256": file_sha256(run.experiment),
            "photos_sha256": file_sha256(run.photos_manifest),
            "packages": load_packages(run, timed_on) if timed_on else installed_packages(),
        },
        "verdict": to_json(verdict),
    }
    return BuiltReport(report, rows, verdict.chosen_file, tested)


def _robustness(
    run: RunDir,
    experiment: Experiment,
    test: Photos,
    tested: dict[str, np.ndarray],
    files: list[FileRow],
    chosen: str | None,
) -> Any:
    photos = corrupted_photos(experiment, paths=test.paths, labels=test.labels)
    if photos is None:
        return None
    of_files = {row.name: row.parent for row in files}
    trained = ("teacher", "student", "control")
    of_models = {n: None if n in trained else "student" for n in tested if n not in of_files}
    parents = {**of_models, **of_files}
    return to_json(robustness(run, photos, clean=tested, parents=parents, shipped=chosen))


def _distillation(
    run: RunDir,
    experiment: Experiment,
    test: Photos,
    probs: dict[str, dict[str, np.ndarray]],
) -> Distillation | None:
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


def _source(experiment: Experiment) -> str:
    path = experiment.data.path
    return experiment.data.source if path is None else f"{experiment.data.source} {path.name}"


def _measured(
    row: FileRow, probs: dict[str, dict[str, np.ndarray]], labels: np.ndarray
) -> MeasuredFile:
    file, parent, student = (
        probs[name]["validation"] for name in (row.name, str(row.parent), "student")
    )
    drop = drop_of(file, parent, student, labels)
    return MeasuredFile(row.name, row.file_bytes, drop, row.latency[0] if row.latency else None)


def _model_row(
    run: RunDir, name: str, probs: np.ndarray, test: Photos, teacher: np.ndarray
) -> dict[str, Any]:
    facts = read_json(run.model_dir(name) / "manifest.json")
    kept = ("backbone", "input_shape", "num_parameters", "num_macs", "seconds_to_train")
    scores = accuracy(probs, test.labels, split="test", teacher_probs=teacher)
    return {"name": name, **{key: facts[key] for key in kept}, "accuracy": to_json(scores)}


def _file_row(
    run: RunDir,
    name: str,
    probs: dict[str, dict[str, np.ndarray]],
    photos: RunPhotos,
    teacher: np.ndarray,
    latency: list[Latency],
) -> FileRow:
    path = run.file(name)
    facts = read_json(path.with_name(name + ".json"))
    parent = probs[facts["source"]]["test"]
    return file_row(
        path,
        recipe=facts["recipe"],
        parent=facts["source"],
        probs=probs[name]["test"],
        photos=photos.test,
        references=References(parent=parent, student=probs["student"]["test"], teacher=teacher),
        latency=latency,
        shown_path=f"files/{name}",
        known_zip_bytes=facts.get("zip_bytes"),
    )


def _file_entry(
    run: RunDir, row: FileRow, tested: dict[str, np.ndarray], photos: RunPhotos
) -> dict[str, Any]:
    """An entry of `files`: the row of a file with its digest and the answers that it changed."""
    answers, parent_answers = (tested[n].argmax(axis=1) for n in (row.name, str(row.parent)))
    flips = flips_by_class(answers, parent_answers, photos.test.labels, photos.classes)
    path = run.file(row.name)
    sha256 = output_sha256(path.with_name(row.name + ".json"), row.name)
    return {**to_json(row), "sha256": sha256, "flips_by_class": to_json(flips)}


def _details(
    run: RunDir,
    built: BuiltReport,
    photos: RunPhotos,
    models: list[str],
) -> Details:
    chosen, tested = built.chosen_file, built.test_probs
    confusion = None
    if chosen:
        answers = tested[chosen].argmax(axis=1)
        confusion = confusion_counts(answers, photos.test.labels, len(photos.classes)).tolist()
    return Details(
        histories={name: rows for name in models if (rows := _history(run, name))},
        confusion=confusion,
        galleries=galleries(chosen, built.files, photos.test, photos.classes, tested),
    )


def _history(run: RunDir, name: str) -> list[dict[str, Any]]:
    path = run.model_dir(name) / "history.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
