"""Trainings on several devices of one process: logical CPUs, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from faults.harness import write_photos

HERE = Path(__file__).parent
CONFIG = """
data: {path: photos}
teacher:
  {backbone: {name: tiny, width: 8, dropout: 0.0}, image_size: 32, epochs: 3, batch_size: 30,
   strategy: {name: full, rate_decay: 0.5}, ema_momentum: 0.9}
student: {backbone: {name: tiny, width: 4}, image_size: 32, epochs: 1}
"""


def teacher(folder: Path, name: str, *words: str, backend: str, program: str) -> str:
    """Train a teacher, which records its losses in `<name>.txt`; returns what it says."""
    command = ["distill", "teacher", "config.yaml", "--run", name, *words]
    done = subprocess.run(
        [sys.executable, str(HERE / program), f"{name}.txt", *command],
        cwd=folder,
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
        },
        capture_output=True,
        text=True,
    )
    return done.stderr if done.returncode else ""


def losses(folder: Path, name: str) -> np.ndarray:
    """The mean loss of the epoch so far, after every update."""
    lines = (folder / f"{name}.txt").read_text().splitlines()
    return np.array([float(line.split()[-1]) for line in lines])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_have_the_losses_of_one(tmp_path: Path, backend: str) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "config.yaml").write_text(CONFIG)
    on_two = ("--set", "distribution.devices=2")
    programs = {"tensorflow": "two_devices_program.py", "jax": "recording_program.py"}
    for name, words in {"one": (), "two": on_two}.items():
        assert not teacher(tmp_path, name, *words, backend=backend, program=programs[backend])
    expected = losses(tmp_path, "one")
    assert len(expected) == 3 * 6
    # TensorFlow computes the variance of a batch differently where devices share it.
    np.testing.assert_allclose(losses(tmp_path, "two"), expected, atol=1e-3)


@pytest.mark.slow
def test_what_the_devices_cannot_do_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "config.yaml").write_text(CONFIG)
    for setting, message in {
        "distribution.devices=3": "distribution.devices is 3, and a process sees 2 CPU devices",
        "distribution.devices=all": "--set teacher.batch_size=30",
    }.items():
        words = ("--set", setting, "--set", "teacher.batch_size=31")
        said = teacher(tmp_path, "run", *words, backend="jax", program="recording_program.py")
        assert message in said
