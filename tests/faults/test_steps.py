"""What the one mechanism of resuming withstands, with steps that take a tenth of a second."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli import explain
from configs.artifacts import whole_file
from configs.errors import ran_out_of_memory
from configs.process.stopping import Stopped, stops_on_signals
from configs.resume import take_step
from faults.harness import finish_times, leftovers
from faults.small_disk import can_mount, filled, small_disk
from faults.steps_program import NAMES, NUM_PARTS, PART_BYTES, step_of

PROGRAM = Path(__file__).with_name("steps_program.py")
NUM_KILLS = 10
WHOLE = "".join(str(number) * PART_BYTES for number in range(NUM_PARTS))

needs_mount = pytest.mark.skipif(not can_mount(), reason="mounting is not allowed here")


@contextmanager
def steps(folder: Path, *before: str) -> Iterator[subprocess.Popen[str]]:
    """The program, from the moment on at which its first step begins."""
    process = subprocess.Popen(
        [*before, sys.executable, str(PROGRAM), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def assert_whole(folder: Path) -> None:
    for name in NAMES:
        assert (folder / name / "whole.txt").read_text() == WHOLE
    assert not leftovers(folder)


def test_ten_kills_lose_no_finished_step(tmp_path: Path) -> None:
    rng = random.Random(1)
    num_kills, num_folders = 0, 0
    while num_kills < NUM_KILLS:
        num_folders += 1
        folder, code = tmp_path / str(num_folders), None
        while code != 0:
            finished = finish_times(folder)
            with steps(folder) as process:
                try:
                    code = process.wait(rng.uniform(0, 0.2))
                except subprocess.TimeoutExpired:
                    num_kills += 1
            assert finished.items() <= finish_times(folder).items()
        assert_whole(folder)


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_a_clock_that_is_set_back_changes_nothing(tmp_path: Path) -> None:
    take_step(step_of(tmp_path, NAMES[0]))
    finished = finish_times(tmp_path)
    with steps(tmp_path, "faketime", "-f", "-2h") as process:
        assert process.wait(60) == 0
    assert finished.items() <= finish_times(tmp_path).items()
    assert_whole(tmp_path)


def test_two_processes_on_one_folder_end_with_one_result(tmp_path: Path) -> None:
    with steps(tmp_path) as first, steps(tmp_path) as second:
        codes = [first.wait(60), second.wait(60)]
        errors = [process.stderr.read() for process in (first, second) if process.stderr]
    assert 0 in codes
    for code, error in zip(codes, errors, strict=True):
        assert code == 0 or "another process is working on" in error
    assert_whole(tmp_path)


@needs_mount
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        folder = disk / "run"
        take_step(step_of(folder, NAMES[0]))
        finished = finish_times(folder)
        with filled(disk), pytest.raises(OSError, match="No space left") as caught:
            take_step(step_of(folder, NAMES[1]))
        message, code = explain(caught.value)
        assert message.startswith(f"no space left on the disk ({folder}/{NAMES[1]}/")
        assert "\n" not in message
        assert code == 1
        assert finished == finish_times(folder)
        for name in NAMES:
            take_step(step_of(folder, name))
        assert finished.items() <= finish_times(folder).items()
        assert_whole(folder)


@needs_mount
def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        path = disk / "model.keras"
        path.write_text("old")

        def write() -> None:
            with whole_file(path) as unfinished:
                unfinished.write_bytes(bytes(2**20))

        with pytest.raises(OSError, match="No space left") as caught:
            write()
        assert caught.value.filename == str(path)
        assert path.read_text() == "old"
        assert list(disk.iterdir()) == [path]


@needs_mount
def test_a_disk_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        take_step(step_of(disk, NAMES[0]))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        take_step(step_of(disk, NAMES[0]))  # what is finished needs no write
        with pytest.raises(OSError, match="Read-only") as caught:
            take_step(step_of(disk, NAMES[1]))
        message, code = explain(caught.value)
        assert message.startswith(f"Read-only file system ({disk}/{NAMES[1]}")
        assert "--run" in message
        assert code == 1


def test_a_full_disk_is_told_from_full_memory() -> None:
    class ResourceExhaustedError(Exception):
        """TensorFlow's, for both."""

    full_disk = ResourceExhaustedError("/tmp/x/variables: No space left on device")
    assert not ran_out_of_memory(full_disk)
    assert ran_out_of_memory(ResourceExhaustedError("OOM when allocating tensor"))
    assert explain(full_disk)[0].startswith("no space left on the disk (ResourceExhaustedError")


def test_a_full_disk_is_seen_behind_another_error() -> None:
    # zipfile cannot close an archive whose member was cut off, and says that instead.
    error = ValueError("Can't close the ZIP file")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device", "teacher/model.keras")
    assert explain(error)[0].startswith("no space left on the disk (teacher/model.keras)")


@pytest.mark.usefixtures("usual_handlers")
def test_a_signal_is_a_signal_whatever_the_library_made_of_it() -> None:
    with stops_on_signals():
        with contextlib.suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        message, code = explain(RuntimeError("the graph was interrupted"))
    assert message.startswith("stopped by SIGTERM.")
    assert code == 128 + signal.SIGTERM
