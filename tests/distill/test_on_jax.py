"""The steps of `distill` on the JAX backend, each command in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from keras import layers

from faults.harness import TINY_PROGRAM, write_photos
from support import ROOT

pytestmark = pytest.mark.slow

TINY = """
data: {path: photos, labels_per_class: 20}
teacher: {backbone: {name: tiny, width: 8}, image_size: 32, epochs: 2, batch_size: 30}
soft_labels: {num_views: 2}
student:
  {backbone: {name: tiny, width: 4}, image_size: 32, epochs: 2, batch_size: 30, control: false}
"""
WHOLE = """
data: {path: photos}
teacher: {backbone: {name: keras_file, weights: mine.keras}, image_size: 32, epochs: 2}
soft_labels: {num_views: 1}
student:
  {backbone: {name: keras_file, weights: mine.keras}, image_size: 32, epochs: 2, control: false}
compress: {recipes: [tflite.float32]}
evaluate: {num_runs: 30, num_warmup: 1, corruptions: []}
distribution: {devices: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path


def on_jax(words: str, *program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *program, *words.split()],
        cwd=cwd,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "settings",
    [
        "student.strategy=head",  # on stored features of the frozen network
        "student.feature_loss=hint student.precision=bfloat16 student.sampling=balanced",
    ],
)
def test_teacher_labels_and_student_need_no_tensorflow_backend(folder: Path, settings: str) -> None:
    (folder / "config.yaml").write_text(TINY)
    words = " ".join(f"--set {setting}" for setting in settings.split())
    for step in ("teacher", "label", "student"):
        on_jax(f"distill {step} config.yaml --run run {words}", str(TINY_PROGRAM), cwd=folder)
    assert (folder / "run" / "student" / "model.keras").exists()


def test_a_whole_run_on_jax_writes_its_files_in_a_child_process(folder: Path) -> None:
    pixels = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, -1)(pixels)
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    keras.Model(pixels, layers.Dense(3, activation="softmax")(x)).save(folder / "mine.keras")
    (folder / "config.yaml").write_text(WHOLE)
    program = ("-c", "from cli import distill; distill()")
    done = on_jax("run config.yaml --run run --json", *program, cwd=folder)
    report = json.loads(done.stdout.splitlines()[-1])
    assert [file["recipe"] for file in report["files"]] == ["tflite.float32"]
    assert (folder / "run" / "report.html").exists()
    assert "latency on local" in done.stderr
    assert "devices: 2" in (folder / "run" / "experiment.yaml").read_text()
