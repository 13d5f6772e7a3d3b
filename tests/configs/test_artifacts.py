import multiprocessing
import re
from pathlib import Path

import pytest

from configs.artifacts import ending, unfinished_name, whole_file


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


def dead_process() -> int:
    """The number of a process that has ended."""
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / unfinished_name("model.txt", dead_process())).write_text("half")
    with whole_file(tmp_path / "model.txt") as unfinished:
        unfinished.write_text("content")
    assert [path.name for path in tmp_path.iterdir()] == ["model.txt"]


@pytest.mark.parametrize("name", ["b0-int8.tflite", "my-b0-int8.tflite"])
def test_what_a_living_process_writes_is_left_alone(tmp_path: Path, name: str) -> None:
    # Process 1 always lives. Its file may end like ours, as `my-b0-int8.tflite` does.
    other = tmp_path / unfinished_name(name, 1)
    other.write_text("half")
    with whole_file(tmp_path / "b0-int8.tflite") as unfinished:
        unfinished.write_text("content")
    assert other.exists()


def test_a_dead_process_of_a_file_whose_name_ends_alike_is_no_reason(tmp_path: Path) -> None:
    other = tmp_path / unfinished_name("my-b0-int8.tflite", dead_process())
    other.write_text("half")
    with whole_file(tmp_path / "b0-int8.tflite") as unfinished:
        unfinished.write_text("content")
    assert other.exists()


@pytest.mark.parametrize("name", ["model.onnx", "MODEL.ONNX", "runs/b0.v2/Model.Onnx"])
def test_an_ending_is_the_same_in_capitals(name: str) -> None:
    assert ending(name) == ending(Path(name)) == ".onnx"


def test_no_file_reads_endings_in_another_way() -> None:
    root = Path(__file__).resolve().parents[2]
    rooms = ("configs", "eval", "distill", "compress", "commands")
    users = {
        path.relative_to(root).as_posix()
        for room in rooms
        for path in (root / room).rglob("*.py")
        if re.search(r"\.suffix\b", path.read_text())
    }
    # They are copied alone: the probe to devices, the others into bundles.
    alone = {"eval/devices/probe.py", "eval/photo_files.py", "compress/bundle/classify.py"}
    assert users == {"configs/artifacts.py", *alone}
