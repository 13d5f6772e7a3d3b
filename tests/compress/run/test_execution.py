import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from compress.config_choices import REGISTRIES
from compress.run import execution
from compress.run.execution import ensure, take
from configs.artifacts import read_json
from configs.errors import OutOfMemory, UserError
from configs.loading.targets import open_run
from configs.resume import Step
from configs.run_dir import RunDir
from configs.schema import Experiment
from made_photos import LABELS, png_of


def test_the_command_to_type_next_works_for_a_folder_of_any_name(
    tmp_path: Path, photo_folder: Path
) -> None:
    photos = photo_folder.rename(tmp_path / "my ${HOME}")
    run, experiment = open_run(
        str(photos), run=tmp_path / "run", overrides=[], registries=lambda: REGISTRIES
    )
    ensure(run, experiment, ["data"], str(photos))
    with pytest.raises(UserError) as caught:
        ensure(run, experiment, ["teacher"], str(photos))
    assert f"distill teacher '{photos}' --run {run}" in str(caught.value)


@pytest.mark.parametrize("by", ["source", "path"])
def test_tars_that_changed_are_noticed_by_later_steps(tmp_path: Path, by: str) -> None:
    def write(first: int) -> None:
        with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
            for number in range(first, first + 40):
                content = png_of(number)
                info = tarfile.TarInfo(f"{LABELS[number % 2]}/{number}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    pattern = str(tmp_path / "tars" / "*.tar")
    place = {
        "source": {"source": f"webdataset:{pattern}"},
        "path": {"source": "webdataset", "path": pattern},
    }[by]
    small = {"backbone": "EfficientNetB0", "image_size": 32, "epochs": 1}
    config = {"data": place, "teacher": small, "student": small}
    run, experiment = RunDir(tmp_path / "run"), Experiment.model_validate(config)
    (tmp_path / "tars").mkdir()
    write(0)
    ensure(run, experiment, ["data"], "x")
    before = run.photos_manifest.read_bytes()
    write(1)
    ensure(run, experiment, ["data"], "x")
    after = run.photos_manifest.read_bytes()
    assert after != before
    shutil.rmtree(tmp_path / "tars")
    ensure(run, experiment, ["data"], "x")  # as if the run had been copied without its tars
    assert run.photos_manifest.read_bytes() == after


def test_only_the_data_step_looks_at_inodes(tmp_path: Path, photo_folder: Path) -> None:
    """A run and its photos were copied to another machine, or are seen through another mount."""
    run, experiment = open_run(
        str(photo_folder), run=tmp_path / "run", overrides=[], registries=lambda: REGISTRIES
    )
    target, manifest = str(photo_folder), run.photos_manifest.with_suffix(".json")
    take(run, experiment, ["data"], target=target)
    first = read_json(manifest)
    copy = tmp_path / "copy"
    shutil.copytree(photo_folder, copy)
    shutil.rmtree(photo_folder)
    copy.rename(photo_folder)
    ensure(run, experiment, ["data"], target)
    assert read_json(manifest) == first
    take(run, experiment, ["data"], target=target)
    assert read_json(manifest)["inputs"]["inodes"] != first["inputs"]["inodes"]
    os.utime(photo_folder / "cat" / "0.png")
    ensure(run, experiment, ["data"], target)
    assert read_json(manifest)["inputs"]["listing"] != first["inputs"]["listing"]


class ResourceExhaustedError(Exception):
    """What TensorFlow raises is told by its name."""


@pytest.mark.parametrize("error", [MemoryError, ResourceExhaustedError])
def test_a_step_without_enough_memory_is_named_with_advice(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def build(workspace: object) -> None:
        raise error

    run, experiment = open_run(
        str(photo_folder), run=tmp_path / "run", overrides=[], registries=lambda: REGISTRIES
    )
    step = Step("teacher", run.path / "teacher.json", {}, build)
    monkeypatch.setitem(execution.STEPS, "teacher", lambda context: iter([step]))
    with pytest.raises(OutOfMemory) as caught:
        take(run, experiment, ["data", "teacher"], target=str(photo_folder))
    assert "teacher ran out of memory" in str(caught.value)
    assert "--set teacher.batch_size=8" in str(caught.value)
