"""The results of a run directory: `report.json`, `.md` and `.html`, and `model_card.md`."""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from configs.artifacts import file_sha256, read_json, write_json, write_text
from configs.records import from_json, to_json
from configs.resume import output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from eval.choice.drop import drop_of
from eval.choice.file_to_ship import MeasuredFile, choose
from eval.choice.model_to_ship import ShippedModel
from eval.devices.machine import installed_packages, this_machine
from eval.devices.registry import device_label
from eval.distillation.of_run import distillation_of, label_curve_of
from eval.needs import Runtime
from eval.report.contents import DataFacts, FileEntry, ModelRow, Provenance, Report
from eval.report.costs import step_costs
from eval.report.failures import confusion_table, flips_by_class, galleries
from eval.report.html import Details, Epoch, ReportJson, render_html, render_markdown
from eval.report.model_card import render_card
from eval.scoring.accuracy import accuracy
from eval.scoring.calibration import calibration_of
from eval.scoring.corruption.photos import corrupted_photos
from eval.scoring.corruption.robustness import Robustness, robustness
from eval.scoring.file_rows import FileRow, References, file_row
from eval.scoring.predictions import Photos, load_predictions
from eval.scoring.threshold import Threshold, accepted_photos
from eval.timing.latency import Latency
from eval.timing.results import load_latency, load_machine, load_packages

TRAINED_ON_PHOTOS = ("teacher", "student", "control")


@dataclass(frozen=True)
class RunPhotos:
    """The photos that the results were measured on."""

    classes: list[str]
    validation: Photos
    test: Photos


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        models: names of the run's models, the teacher first.
        files: names of the run's files.
        shipped: the model that became files.
        temperature: of that model.
        curve: names of the controls of the label curve.
    """

    photos: RunPhotos
    models: list[str]
    files: list[str]
    shipped: ShippedModel
    temperature: float = 1.0
    curve: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltReport:
    """The report of a run, and the answers that its details show.

    Attributes:
        test_probs: probabilities on the test photos, by the name of a model or file.
    """

    report: Report
    test_probs: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Answers:
    """What the models and files of a run answered.

    Attributes:
        probs: probabilities (examples, classes), by the name of a model or file, then by split.
        shipped: student or control, whichever became files.
    """

    photos: RunPhotos
    probs: dict[str, dict[str, np.ndarray]]
    shipped: str

    def test(self, name: str) -> np.ndarray:
        return self.probs[name]["test"]


def write_report(run: RunDir, experiment: Experiment, subject: Subject) -> ReportJson:
    """Write the reports of a run and its model card; returns `report.json`."""
    built = build_report(run, experiment, subject)
    report: ReportJson = to_json(built.report)
    details = _details(run, built, subject)
    write_text(run.path / "report.md", render_markdown(report, details))
    write_text(run.path / "model_card.md", render_card(report, experiment))
    write_text(run.path / "report.html", render_html(report, details))
    write_json(run.path / "report.json", report)
    return report


def build_report(run: RunDir, experiment: Experiment, subject: Subject) -> BuiltReport:
    """Everything that the reports of a run show."""
    photos, models, files = subject.photos, subject.models, subject.files
    shipped = subject.shipped.model
    probs = {name: load_predictions(run, name) for name in [*models, *files]}
    answers = _Answers(photos, probs, shipped)
    devices = [device_label(d.name, d.options) for d in experiment.evaluate.devices]
    latency = load_latency(run, devices, files)
    rows = [_file_row(run, name, answers, latency.get(name, [])) for name in files]
    measured = [_measured(row, answers) for row in rows]
    verdict = choose(measured, budget=experiment.compress.budget, model=f"the {shipped}")
    test_probs = {name: answers.test(name) for name in probs}
    timed_on = next((row.latency[0].device for row in rows if row.latency), None)
    report = Report(
        run=run.path.resolve().name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=experiment.seed,
        machine=load_machine(run, timed_on) if timed_on else this_machine(),
        data=_data_facts(run, experiment, photos),
        models=[_model_row(run, name, answers) for name in models],
        files=[_file_entry(run, row, answers) for row in rows],
        distillation=distillation_of(run, experiment.student, photos.test.labels),
        label_curve=label_curve_of(run, subject.curve, photos.test.labels),
        steps=step_costs(
            models=[shipped, *(name for name in models if name not in TRAINED_ON_PHOTOS)],
            files=rows,
            chosen=verdict.chosen_file,
            probs=test_probs,
            labels=photos.test.labels,
        ),
        robustness=_robustness(run, experiment, answers, rows, verdict.chosen_file),
        provenance=Provenance(
            config_sha256=file_sha256(run.experiment),
            photos_sha256=file_sha256(run.photos_manifest),
            packages=load_packages(run, timed_on) if timed_on else installed_packages(),
        ),
        verdict=verdict,
        shipped=subject.shipped,
        calibration=calibration_of(
            answers.test(shipped), photos.test.labels, temperature=subject.temperature
        ),
    )
    return BuiltReport(report, test_probs)


def _data_facts(run: RunDir, experiment: Experiment, photos: RunPhotos) -> DataFacts:
    facts = read_json(run.photos_manifest.with_suffix(".json"))
    student = read_json(run.model_dir("student") / "manifest.json")
    data = experiment.data
    return DataFacts(
        source=data.source if data.path is None else f"{data.source} {Path(data.path).name}",
        classes=photos.classes,
        num_train=facts["num_train"],
        num_validation=facts["num_validation"],
        num_test=facts["num_test"],
        num_unlabelled=facts["num_unlabelled"],
        # Students of older versions left none out.
        num_left_out=student.get("num_left_out", 0),
        num_skipped=facts["num_skipped"],
    )


def _model_row(run: RunDir, name: str, answers: _Answers) -> ModelRow:
    facts = read_json(run.model_dir(name) / "manifest.json")
    return ModelRow(
        name=name,
        backbone=facts["backbone"],
        input_shape=facts["input_shape"],
        num_parameters=facts["num_parameters"],
        num_macs=facts["num_macs"],
        seconds_to_train=facts["seconds_to_train"],
        accuracy=accuracy(
            answers.test(name),
            answers.photos.test.labels,
            split="test",
            teacher_probs=answers.test("teacher"),
        ),
        # Models of older versions do not say it, nor do given teachers and methods.
        strategy=facts.get("strategy"),
    )


def _file_row(run: RunDir, name: str, answers: _Answers, latency: list[Latency]) -> FileRow:
    path = run.file(name)
    facts = read_json(path.with_name(name + ".json"))
    return file_row(
        path,
        recipe=facts["recipe"],
        parent=facts["source"],
        probs=answers.test(name),
        photos=answers.photos.test,
        references=References(
            parent=answers.test(facts["source"]),
            student=answers.test(answers.shipped),
            teacher=answers.test("teacher"),
        ),
        latency=latency,
        shown_path=f"files/{name}",
        known_zip_bytes=facts.get("zip_bytes"),
        runtime=from_json(Runtime, facts["runtime"]) if "runtime" in facts else None,
    )


def _file_entry(run: RunDir, row: FileRow, answers: _Answers) -> FileEntry:
    path, photos = run.file(row.name), answers.photos
    facts = read_json(path.with_name(row.name + ".json"))
    threshold = None
    if facts.get("threshold"):
        carried = from_json(Threshold, facts["threshold"])
        threshold = accepted_photos(carried, answers.test(row.name), photos.test.labels)
    return FileEntry(
        row=row,
        sha256=output_sha256(path.with_name(row.name + ".json"), row.name),
        flips_by_class=flips_by_class(
            answers.test(row.name).argmax(axis=1),
            answers.test(str(row.parent)).argmax(axis=1),
            photos.test.labels,
            photos.classes,
        ),
        threshold=threshold,
    )


def _measured(row: FileRow, answers: _Answers) -> MeasuredFile:
    """The file as the choice sees it: by its answers on the validation photos."""
    names = (row.name, str(row.parent), answers.shipped)
    file, parent, student = (answers.probs[name]["validation"] for name in names)
    drop = drop_of(file, parent, student, answers.photos.validation.labels)
    return MeasuredFile(row.name, row.file_bytes, drop, row.latency[0] if row.latency else None)


def _robustness(
    run: RunDir,
    experiment: Experiment,
    answers: _Answers,
    files: list[FileRow],
    chosen: str | None,
) -> Robustness | None:
    test, test_probs = answers.photos.test, {name: answers.test(name) for name in answers.probs}
    photos = corrupted_photos(experiment, paths=test.paths, labels=test.labels)
    if photos is None:
        return None
    parents = {name: None if name in TRAINED_ON_PHOTOS else answers.shipped for name in test_probs}
    parents |= {row.name: row.parent for row in files}
    return robustness(run, photos, clean=test_probs, parents=parents, shipped=chosen)


def _details(run: RunDir, built: BuiltReport, subject: Subject) -> Details:
    photos, models = subject.photos, subject.models
    chosen, test_probs = built.report.verdict.chosen_file, built.test_probs
    confusion = None
    if chosen:
        answers = test_probs[chosen].argmax(axis=1)
        confusion = confusion_table(answers, photos.test.labels, photos.classes)
    files = [entry.row for entry in built.report.files]
    return Details(
        histories={name: epochs for name in models if (epochs := _history(run, name))},
        confusion=confusion,
        galleries=galleries(chosen, files, photos.test, photos.classes, test_probs),
    )


def _history(run: RunDir, name: str) -> list[Epoch]:
    path = run.model_dir(name) / "history.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
