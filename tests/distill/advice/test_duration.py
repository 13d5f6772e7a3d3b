"""How long trainings will take: the arithmetic by hand, and against a real training."""

import time
from pathlib import Path

import pytest

from compress.config_choices import REGISTRIES
from compress.run.pipeline import STEPS, Context
from configs.loading.experiment import load_experiment
from configs.loading.targets import CONFIGS
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.advice import duration
from distill.advice.duration import Pace, durations, rough_seconds
from distill.data.pipelines import open_photo_store

PACE = Pace(start=10.0, update=0.02, answer=0.005, view=0.001)


def scanned(folder: Path, *overrides: str) -> tuple[RunDir, Experiment]:
    experiment = load_experiment(CONFIGS / "smoke.yaml", REGISTRIES, list(overrides))
    run = RunDir(folder)
    with open_photo_store(run, experiment) as photos:
        for step in STEPS["data"](Context(run, experiment, photos)):
            take_step(step)
    return run, experiment


def test_every_step_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 1,201 training and 211 validation photos, batches of 64: 18 updates or 1,152 photos an epoch.
    run, experiment = scanned(tmp_path, "student.seeds=2", "student.label_curve=[0.5]")
    monkeypatch.setattr(duration, "measure_pace", lambda config, views: PACE)
    with open_photo_store(run, experiment) as photos:
        steps = {step.step: step.seconds for step in durations(run, experiment, photos)}
    training = 10 + 2 * (1152 * 0.021 + 211 * 0.005)
    assert list(steps) == ["teacher", "soft labels", "student", "control"]
    assert steps["teacher"] == pytest.approx(training)
    assert steps["soft labels"] == pytest.approx(1201 * 2 * 0.006)
    assert steps["student"] == pytest.approx(2 * training)
    assert steps["control"] == pytest.approx(3 * training)


def test_a_rough_estimate_needs_no_measurement(tmp_path: Path) -> None:
    run, experiment = scanned(tmp_path)
    once = rough_seconds(run, experiment)
    longer = experiment.model_copy(
        update={"student": experiment.student.model_copy(update={"epochs": 200})}
    )
    more = rough_seconds(run, longer)
    assert once is not None
    assert more is not None
    assert 0 < once < more < 3600


@pytest.mark.slow
def test_the_estimate_is_near_what_a_training_takes(tmp_path: Path) -> None:
    run, experiment = scanned(tmp_path, "student.epochs=12", "student.control=false")
    with open_photo_store(run, experiment) as photos:
        context = Context(run, experiment, photos)
        for name in ("teacher", "label"):
            for step in STEPS[name](context):
                take_step(step)
        estimated = {step.step: step.seconds for step in durations(run, experiment, photos)}
        student = next(STEPS["student"](context))
        begin = time.monotonic()
        take_step(student)
        seconds = time.monotonic() - begin
    # Other work on the machine may come and go in between.
    assert seconds / 2 < estimated["student"] < 2 * seconds


@pytest.mark.parametrize(("update", "num_warnings"), [(0.02, 0), (1.0, 0), (30.0, 1)])
def test_a_long_run_says_so_before_it_begins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    warnings: list[str],
    update: float,
    num_warnings: int,
) -> None:
    run, experiment = scanned(tmp_path)
    pace = Pace(start=10.0, update=update, answer=0.005, view=0.001)
    monkeypatch.setattr(duration, "measure_pace", lambda config, views: pace)
    monkeypatch.setattr(duration, "rough_seconds", lambda run, experiment: None)
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: [])
    with caplog.at_level("INFO", logger="potstill"), open_photo_store(run, experiment) as photos:
        duration.announce(run, experiment, photos)
    said = [text for text in caplog.messages if "the trainings will take about" in text]
    assert len(said) == (update >= 1.0)
    cheaper = [text for text in warnings if "photos_lite takes a fraction" in text]
    assert len(cheaper) == num_warnings


def test_a_short_run_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, experiment = scanned(tmp_path)
    measured: list[object] = []
    monkeypatch.setattr(duration, "measure_pace", lambda *args: measured.append(args))
    with open_photo_store(run, experiment) as photos:
        duration.announce(run, experiment, photos)
    assert not measured
