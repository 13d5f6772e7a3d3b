"""The files of one model of a run share the loaded model and its calibration."""

from pathlib import Path

import numpy as np
import pytest

from compress.run import files
from configs.resume import Workspace
from configs.run_dir import RunDir
from configs.schema.choice import Choice
from configs.schema.files import LeastRuntime
from distill.data.manifest import Examples
from small_models import experiment_with

RECIPES = [Choice(name=f"tflite.{name}", options={}) for name in ("int8", "int16", "weights")]


@pytest.fixture
def loads_and_conversions(tiny_model, monkeypatch) -> tuple[list[Path], list]:
    """The models that were loaded, and the conversions that files were written from."""
    loads: list[Path] = []
    conversions: list = []

    def load(path: Path):
        loads.append(path)
        return tiny_model

    def write(conversion, path: Path, recipe: Choice, **facts) -> dict:
        conversions.append(conversion)
        return {}

    photos = Examples(["1"], [Path("1.png")], np.zeros(1, "int32"), ["cat"])
    monkeypatch.setattr(files, "load_model", load)
    monkeypatch.setattr(files, "write_file", write)
    monkeypatch.setattr(files, "load_examples", lambda run, split: photos)
    monkeypatch.setattr(files, "output_sha256", lambda manifest, name: "0")
    return loads, conversions


def test_the_files_of_a_model_share_one_conversion(tmp_path, loads_and_conversions) -> None:
    loads, conversions = loads_and_conversions
    run = RunDir(tmp_path)
    for parent in ("student", "qat"):
        for step in files.file_steps(run, experiment_with(), parent, RECIPES):
            step.build(Workspace(tmp_path))
    assert loads == [run.model("student"), run.model("qat")]
    assert [conversions.index(conversion) for conversion in conversions] == [0, 0, 0, 3, 3, 3]


def test_a_model_is_not_loaded_if_no_file_is_written(tmp_path, loads_and_conversions) -> None:
    loads, _ = loads_and_conversions
    steps = list(files.file_steps(RunDir(tmp_path), experiment_with(), "student", RECIPES))
    assert len(steps) == len(RECIPES)
    assert loads == []


def test_a_least_runtime_makes_a_step_stale(tmp_path, loads_and_conversions) -> None:
    plain = experiment_with()
    older = plain.compress.model_copy(update={"least_runtime": LeastRuntime(tflite="2.14")})
    (before, *_), (after, *_) = (
        list(files.file_steps(RunDir(tmp_path), experiment, "student", RECIPES))
        for experiment in (plain, plain.model_copy(update={"compress": older}))
    )
    assert set(before.inputs) == {"model", "photos", "recipe", "output", "accepted_accuracy"}
    assert after.inputs == {**before.inputs, "least_runtime": "2.14"}
