import multiprocessing
from pathlib import Path

import pytest

from configs.artifacts import whole_file
from configs.errors import UserError
from configs.resume import (
    Step,
    is_current,
    step_lock,
    take_step,
)
from configs.run_dir import RunDir


def test_a_file_that_failed_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("old")

    def fail_half_way() -> None:
        with whole_file(path) as unfinished:
            unfinished.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def make_step(run: RunDir, built: list[str], *, inputs: dict[str, object]) -> Step:
    artifact = run.path / "thing" / "model.txt"

    def build() -> tuple[list[Path], dict[str, object]]:
        built.append("built")
        with whole_file(artifact) as unfinished:
            unfinished.write_text("content")
        return [artifact], {"fact": 1}

    return Step("thing", artifact.with_name("manifest.json"), inputs, build)


def test_a_step_is_done_once_for_the_same_inputs(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    for _ in range(2):
        facts = take_step(run, make_step(run, built, inputs={"seed": 1}))
    assert built == ["built"]
    assert facts["fact"] == 1


@pytest.mark.parametrize("change", ["inputs", "output gone", "output cut short", "forced"])
def test_a_step_is_done_again_when(tmp_path: Path, change: str) -> None:
    run, built = RunDir(tmp_path), list[str]()
    take_step(run, make_step(run, built, inputs={"seed": 1}))
    artifact = tmp_path / "thing" / "model.txt"
    if change == "output gone":
        artifact.unlink()
    if change == "output cut short":
        artifact.write_text("con")
    seed = 2 if change == "inputs" else 1
    take_step(run, make_step(run, built, inputs={"seed": seed}), force=change == "forced")
    assert built == ["built", "built"]
    assert artifact.read_text() == "content"


def test_an_artifact_without_a_manifest_is_not_there(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    step = make_step(run, built, inputs={})
    step.build()
    assert not is_current(step.manifest, step.inputs)


def _hold(path: Path, held: "multiprocessing.synchronize.Event") -> None:
    with step_lock(RunDir(path), "teacher"):
        held.set()
        held.wait(60)
        multiprocessing.Event().wait(60)


def test_two_processes_never_do_one_step(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held))
    other.start()
    assert held.wait(60)
    with (
        pytest.raises(UserError, match="another process is at the teacher step"),
        step_lock(RunDir(tmp_path), "teacher"),
    ):
        pass
    other.kill()
    other.join()
    with step_lock(RunDir(tmp_path), "teacher"):  # the lock goes with the process
        assert (tmp_path / ".locks" / "teacher.lock").exists()


def test_an_output_of_a_killed_rebuild_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    take_step(run, make_step(run, built, inputs={}))
    # Another build replaced the file, of the same size, and was killed before its manifest.
    with whole_file(tmp_path / "thing" / "model.txt") as unfinished:
        unfinished.write_text("CONTENT")
    take_step(run, make_step(run, built, inputs={}))
    assert built == ["built", "built"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-1-model.txt").write_text("half")
    with whole_file(tmp_path / "model.txt") as unfinished:
        unfinished.write_text("content")
    assert [path.name for path in tmp_path.iterdir()] == ["model.txt"]
