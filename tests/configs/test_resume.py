import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configs.artifacts import whole_file
from configs.errors import UserError
from configs.resume import (
    Built,
    Step,
    Workspace,
    is_current,
    take_step,
)
from configs.run_dir import RunDir


def make_step(run: RunDir, built: list[str], *, inputs: dict[str, object]) -> Step:
    artifact = run.path / "thing" / "model.txt"

    def build(workspace: Workspace) -> Built:
        built.append("built")
        with whole_file(artifact) as unfinished:
            unfinished.write_text("content")
        return [artifact], {"fact": 1}

    return Step("thing", artifact.with_name("manifest.json"), inputs, build)


def test_a_step_is_done_once_for_the_same_inputs(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    for _ in range(2):
        facts = take_step(make_step(run, built, inputs={"seed": 1}))
    assert built == ["built"]
    assert facts["fact"] == 1


@pytest.mark.parametrize("change", ["inputs", "output gone", "output cut short", "forced"])
def test_a_step_is_done_again_when(tmp_path: Path, change: str) -> None:
    run, built = RunDir(tmp_path), list[str]()
    take_step(make_step(run, built, inputs={"seed": 1}))
    artifact = tmp_path / "thing" / "model.txt"
    if change == "output gone":
        artifact.unlink()
    if change == "output cut short":
        artifact.write_text("con")
    seed = 2 if change == "inputs" else 1
    take_step(make_step(run, built, inputs={"seed": seed}), force=change == "forced")
    assert built == ["built", "built"]
    assert artifact.read_text() == "content"


def test_an_artifact_without_a_manifest_is_not_there(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    step = make_step(run, built, inputs={})
    step.build(step.workspace)
    assert not is_current(step.manifest, step.inputs)


def _hold(path: Path, held: "multiprocessing.synchronize.Event") -> None:
    with make_step(RunDir(path), [], inputs={}).lock():
        held.set()
        held.wait(60)
        multiprocessing.Event().wait(60)


@contextmanager
def held_by_another_process(path: Path) -> Iterator[multiprocessing.Process]:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(path, held))
    other.start()
    assert held.wait(60)
    try:
        yield other
    finally:
        other.kill()
        other.join()


def test_two_processes_never_do_one_step(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    step = make_step(run, built, inputs={})
    with (
        held_by_another_process(tmp_path),
        pytest.raises(UserError, match=r"another process is working on .*thing"),
    ):
        take_step(step)
    take_step(step)  # the lock ends with the process
    assert built == ["built"]


def test_a_finished_step_is_up_to_date_while_another_process_checks_it(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    take_step(make_step(run, built, inputs={}))
    with held_by_another_process(tmp_path):
        take_step(make_step(run, built, inputs={}))
    assert built == ["built"]


def test_a_step_can_wait_for_another_process(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    with held_by_another_process(tmp_path) as other:
        end = threading.Timer(0.5, other.kill)
        end.start()
        take_step(make_step(run, built, inputs={}), wait=True)
        assert not end.is_alive()
    assert built == ["built"]


def test_an_output_of_a_killed_rebuild_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    take_step(make_step(run, built, inputs={}))
    # Another build replaced the file, of the same size, and was killed before its manifest.
    with whole_file(tmp_path / "thing" / "model.txt") as unfinished:
        unfinished.write_text("CONTENT")
    take_step(make_step(run, built, inputs={}))
    assert built == ["built", "built"]


def test_the_same_holds_when_the_clock_was_set_back_in_between(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    take_step(make_step(run, built, inputs={}))
    artifact = tmp_path / "thing" / "model.txt"

    def killed(workspace: Workspace) -> Built:
        with whole_file(artifact) as unfinished:
            unfinished.write_text("CONTENT")
        os.utime(artifact, (1e9, 1e9))  # as by a clock of 2001
        raise KeyboardInterrupt

    step = make_step(run, built, inputs={})
    with pytest.raises(KeyboardInterrupt):
        take_step(Step(step.name, step.manifest, step.inputs, killed), force=True)
    take_step(step)
    assert built == ["built", "built"]


def broken_step(run: RunDir, found: list[int], *, inputs: dict[str, object]) -> Step:
    """A step whose build keeps what it found and is then broken off."""

    def build(workspace: Workspace) -> Built:
        found.append(workspace.once("found", lambda: len(found)))
        raise KeyboardInterrupt

    return Step("thing", run.path / "thing" / "manifest.json", inputs, build)


@pytest.mark.parametrize(("seeds", "expected"), [((1, 1), [0, 0]), ((1, 2), [0, 1])])
def test_a_broken_build_continues_with_what_it_found_for_the_same_inputs(
    tmp_path: Path, seeds: tuple[int, int], expected: list[int]
) -> None:
    run, found = RunDir(tmp_path), list[int]()
    for seed in seeds:
        with pytest.raises(KeyboardInterrupt):
            take_step(broken_step(run, found, inputs={"seed": seed}))
    assert found == expected


def test_a_file_that_was_moved_before_the_kill_is_not_made_again(tmp_path: Path) -> None:
    target, made = tmp_path / "thing" / "labels.npy", list[str]()

    def build(workspace: Workspace) -> Built:
        if not workspace.has_moved("labels.npy", target):
            made.append("made")
            workspace.file("labels.npy").write_text("content")
            workspace.move("labels.npy", target)
        if len(made) == 1 and not killed:
            killed.append("killed")
            raise KeyboardInterrupt
        return [target], {}

    killed = list[str]()
    step = Step("thing", tmp_path / "thing" / "manifest.json", {}, build)
    with pytest.raises(KeyboardInterrupt):
        take_step(step)
    take_step(step)
    assert made == ["made"]
    target.write_text("damaged")
    take_step(step)
    take_step(step, force=True)
    assert made == ["made", "made", "made"]


def test_a_finished_step_leaves_nothing_of_its_workspace(tmp_path: Path) -> None:
    run, built = RunDir(tmp_path), list[str]()
    step = broken_step(run, [], inputs={})
    with pytest.raises(KeyboardInterrupt):
        take_step(step)
    assert step.was_begun
    take_step(make_step(run, built, inputs={}))
    assert not step.was_begun
