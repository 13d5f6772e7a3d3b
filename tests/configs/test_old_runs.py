"""Run directories of the version before are up to date, and their leftovers do no harm."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets
from sklearn.utils import Bunch

from compress.config_choices import REGISTRIES
from compress.run.pipeline import STEPS, Context
from configs.artifacts import file_sha256
from configs.loading.targets import open_run
from configs.resume import HIDDEN, is_current, take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.pipelines import open_photo_store

OLD_RUN = Path(__file__).with_name("old_run.json")
"""Inputs and outputs of a smoke run as that version stored them, by manifest. A digest is written
as "sha256 of FILE", and the name of the soft labels as SOFT_LABELS."""


def old_digest(inputs: dict[str, Any]) -> str:
    """How that version identified inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def write_old_run(run: RunDir) -> None:
    """Write the artifacts of an old run with contents of a few bytes, and what it left behind."""
    photos = file_sha256(run.photos_manifest)
    text = OLD_RUN.read_text().replace("sha256 of data/manifest.csv", photos)
    for number in range(len(json.loads(text))):
        name, stored = list(json.loads(text).items())[number]
        if "SOFT_LABELS" in name:
            text = text.replace("SOFT_LABELS", old_digest(stored["inputs"]))
            name, stored = list(json.loads(text).items())[number]
        manifest = run.path / name
        manifest.parent.mkdir(parents=True, exist_ok=True)
        outputs = {}
        for output in stored["outputs"]:
            path = manifest.with_name(output)
            path.write_text(f"content of {output} of {name}")
            outputs[output] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            relative = path.relative_to(run.path).as_posix()
            text = text.replace(f"sha256 of {relative}", file_sha256(path))
        stored["inputs_digest"] = old_digest(stored["inputs"])
        manifest.write_text(json.dumps({**stored, "outputs": outputs}))
    (run.path / ".locks").mkdir()
    (run.path / ".locks" / "teacher.lock").touch()
    (run.path / "teacher" / "checkpoint").mkdir()
    (run.path / "teacher" / "checkpoint" / "state.json").write_text("{")
    (run.path / "results" / "latency-local.rounds").write_text("{")


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunDir, Experiment]:
    digits = sklearn.datasets.load_digits()
    few = Bunch(images=digits.images[:200], target=digits.target[:200])
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: few)
    run, experiment = open_run("smoke", run=tmp_path, overrides=[], registries=lambda: REGISTRIES)
    for step in STEPS["data"](Context(run, experiment, open_photo_store(run, experiment))):
        take_step(step)
    for path in sorted((run.path / "data" / HIDDEN).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (run.path / "data" / HIDDEN).rmdir()
    write_old_run(run)
    return run, experiment


def test_an_old_run_is_up_to_date_but_for_its_files(
    old_run: tuple[RunDir, Experiment],
) -> None:
    run, experiment = old_run
    checked = []
    for name in ("data", "teacher", "label", "student", "prune", "export", "quantize", "accuracy"):
        for step in STEPS[name](Context(run, experiment, open_photo_store(run, experiment))):
            if not step.manifest.exists():  # the fixture holds few of the results
                continue
            if "recipe" in step.inputs:
                # Files carry a temperature and a threshold now.
                assert not is_current(step.manifest, step.inputs)
            else:
                take_step(step)
            checked.append(step.manifest.relative_to(run.path).as_posix())
    assert len(checked) == len(json.loads(OLD_RUN.read_text())) + 1  # the data
    assert not list(run.path.rglob(HIDDEN)), "a step was built, or locked for nothing"


def test_what_times_depend_on_has_the_keys_of_old_runs(old_run: tuple[RunDir, Experiment]) -> None:
    """The values differ from machine to machine."""
    run, experiment = old_run
    (step,) = STEPS["latency"](Context(run, experiment, open_photo_store(run, experiment)))
    inputs = step.inputs
    assert step.manifest == run.path / "results" / "latency-local.json"
    assert list(inputs["files"]) == [
        f"{parent}-{recipe}"
        for parent in ("student", "magnitude")
        for recipe in ("float32.tflite", "int8.tflite", "float32.onnx", "int8.onnx")
    ]
    assert inputs["runs"] == [1, 3, 30, 10]
    assert set(inputs["device"]) == {"name", "cores", "openvino", "tool", "host"}
    assert set(inputs["device"]["host"]) == {"cpu", "num_cores", "isa", "os", "python", "packages"}
