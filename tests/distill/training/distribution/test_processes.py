"""Trainings in several processes, with JAX on CPUs."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from faults.harness import write_photos

PROGRAM = Path(__file__).with_name("recording_program.py")
EPOCHS, UPDATES = 12, 6
"""209 photos in batches of 30 make six updates."""
CONFIG = """
data: {path: photos}
teacher: {backbone: {name: tiny, width: 8}, image_size: 32, epochs: 12, batch_size: 30}
soft_labels: {num_views: 2}
student:
  {backbone: {name: tiny, width: 4}, image_size: 32, epochs: 2, batch_size: 30, control: false}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("distribution")
    write_photos(path / "photos")
    (path / "config.yaml").write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[float]:
    """The validation losses of a training in one process, which stays in the folder as `one`."""
    with started(folder, "one", "distill teacher config.yaml --run one") as process:
        end_well(process)
    return validation_losses(folder / "one")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def started(
    folder: Path, name: str, words: str, **variables: object
) -> Iterator[subprocess.Popen[str]]:
    """A program on JAX, which records its losses in `<name>.txt`."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder / f"{name}.txt"), *words.split()],
        cwd=folder,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            **{key: str(value) for key, value in variables.items()},
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def together(folder: Path, name: str, words: str) -> Iterator[list[subprocess.Popen[str]]]:
    """The same program in two processes."""
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": 2,
    }
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                started(folder, f"{name}.{index}", words, **shared, JAX_PROCESS_ID=index)
            )
            for index in range(2)
        ]


def end_well(*processes: subprocess.Popen[str]) -> list[str]:
    """What the processes say until they end."""
    said = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said


def losses(path: Path) -> np.ndarray:
    """The loss of every update."""
    rows = [line.split() for line in path.read_text().splitlines()]
    means = np.array([float(mean) for _, _, mean in rows]).reshape(-1, UPDATES)
    sums = means * np.arange(1, UPDATES + 1)  # Keras gives the mean of the epoch so far
    return np.diff(sums, prepend=0.0).flatten()


def validation_losses(run: Path) -> list[float]:
    with open(run / "teacher" / "history.csv", newline="") as file:
        return [float(row["val_loss"]) for row in csv.DictReader(file)]


def test_two_processes_have_the_losses_of_one(folder: Path, alone: list[float]) -> None:
    words = "distill teacher config.yaml --run two"
    with together(folder, "two", words) as processes:
        said = end_well(*processes)
    assert "process 1 takes part: teacher" in said[1]
    expected = losses(folder / "one.txt")
    assert len(expected) == EPOCHS * UPDATES
    for index in range(2):
        # The sums of gradients are rounded differently.
        np.testing.assert_allclose(losses(folder / f"two.{index}.txt"), expected, atol=1e-4)
    assert validation_losses(folder / "two") == pytest.approx(alone, abs=1e-3)


@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_process_stops_the_other_one_and_the_run_resumes(
    folder: Path, alone: list[float], victim: int
) -> None:
    name = f"killed{victim}"
    record = folder / f"{name}.0.txt"
    words = f"distill teacher config.yaml --run {name}"
    with together(folder, name, words) as processes:
        while not record.exists() or len(record.read_text().splitlines()) <= UPDATES:
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.01)
        processes[victim].kill()
        killed = time.monotonic()
        said = processes[1 - victim].communicate(timeout=60)[1]
        assert time.monotonic() - killed < 60
    assert processes[1 - victim].returncode != 0
    assert f"error: process {victim} " in said
    assert "Give the same command again" in said
    # On one process, in place of two.
    with started(folder, f"{name}.resumed", words) as process:
        (said,) = end_well(process)
    assert "continuing after" in said
    assert validation_losses(folder / name) == pytest.approx(alone, abs=1e-3)


def test_processes_that_are_asked_to_end_do_so_before_they_are_killed(folder: Path) -> None:
    record = folder / "asked.0.txt"
    words = "distill teacher config.yaml --run asked"
    with together(folder, "asked", words) as processes:
        while not record.exists() or len(record.read_text().splitlines()) <= UPDATES:
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.01)
        for process in processes:  # as a scheduler does
            process.terminate()
        said = [process.communicate(timeout=60)[1] for process in processes]
    assert processes[0].returncode == 128 + signal.SIGTERM, said[0]
    assert "stopped by SIGTERM" in said[0]
    assert "process 0 of 2 stopped: it was interrupted" in said[1]


def test_a_machine_that_stands_still_stops_the_other_ones(folder: Path) -> None:
    """As one that lost its network, process 0 neither answers nor closes a connection."""
    record = folder / "still.0.txt"
    with together(folder, "still", "distill teacher config.yaml --run still") as processes:
        while not record.exists() or len(record.read_text().splitlines()) <= UPDATES:
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.01)
        processes[0].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        said = processes[1].communicate(timeout=90)[1]
        assert time.monotonic() - stopped < 60
    assert processes[1].returncode == 1
    assert "error: process 0 of 2 has died or cannot be reached: it did not answer" in said, said


def test_processes_with_other_packages_do_not_train_together(folder: Path) -> None:
    other = folder / "packages" / "pillow-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 1.0\n")
    words = "distill teacher config.yaml --run other"
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": 2}
    here = os.environ.get("PYTHONPATH", "")
    paths = here, os.pathsep.join(filter(None, [str(other.parent), here]))
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                started(folder, f"other.{index}", words, **shared, JAX_PROCESS_ID=index,
                        PYTHONPATH=paths[index])
            )
            for index in range(2)
        ]  # fmt: skip
        said = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    for text in said:
        assert "process 1 on " in text
        assert "has other packages: pillow 1.0, not " in text
    assert not (folder / "other" / "teacher").exists()
