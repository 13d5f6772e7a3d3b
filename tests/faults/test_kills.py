"""A run that is killed again and again ends where the undisturbed one does."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, command

NUM_KILLS = 10


def manifests(run: Path) -> dict[str, tuple[int, str]]:
    """Every finished artifact, with when it was finished and of what."""
    paths = [*run.rglob("manifest.json"), *run.rglob("*.tflite.json"), *run.rglob("*.onnx.json")]
    return {
        str(p.relative_to(run)): (p.stat().st_mtime_ns, json.loads(p.read_text())["inputs_digest"])
        for p in paths
    }


def start_and_kill(run: Path, seconds: float) -> bool:
    """Start the smoke run and kill it after so many seconds; whether it was still at work."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from cli import distill; distill()", "run", "smoke",
         "--run", str(run)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def assert_as_good(run: Path, undisturbed: Path) -> None:
    """Every model of a killed run is within a point of the undisturbed run's."""
    ours, theirs = (json.loads((r / "report.json").read_text()) for r in (run, undisturbed))
    for mine, other in zip(ours["models"], theirs["models"], strict=True):
        assert mine["accuracy"]["top1"] == pytest.approx(other["accuracy"]["top1"], abs=0.01)
    assert not list(run.rglob(".unfinished*"))


@pytest.mark.slow
def test_ten_kills_cost_no_finished_artifact_and_no_accuracy(
    smoke_run: Path, tmp_path: Path
) -> None:
    moments = random.Random(20_261_121)
    killed, number = 0, 0
    while killed < NUM_KILLS:
        run = tmp_path / f"run {number}"
        number += 1
        at_work = True
        while at_work and killed < NUM_KILLS:
            before = manifests(run)
            at_work = start_and_kill(run, moments.uniform(10, 100))
            killed += at_work
            after = manifests(run)
            assert {name: after[name] for name in before} == before
        before = manifests(run)
        outcome = command("distill", "run", "smoke", "--run", run)
        assert outcome.code == 0, outcome.err
        after = manifests(run)
        assert {name: after[name] for name in before} == before
        assert_as_good(run, smoke_run)
