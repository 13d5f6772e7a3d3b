"""Mutated inputs end in a clear sentence: no traceback, no crash, no hang, nothing executed.

`run.py` tries thousands of each kind. Every fault that it found is a test beside its code.
"""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
QUICK = {
    "configs": 60, "photos": 150, "collections": 20, "arrays": 40, "onnx": 60, "weights": 80,
    "tflite": 60, "metadata": 60,
}  # fmt: skip
SLOW = {"commands": 60, "keras": 60, "h5": 60, "saved_model": 10}


def run(work: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *map(str, words), "--work", str(work)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("counts", [pytest.param(SLOW, marks=pytest.mark.slow), QUICK])
def test_every_input_is_accepted_or_refused(counts: dict[str, int], tmp_path: Path) -> None:
    kinds = [f"{name}={count}" for name, count in counts.items()]
    done = run(tmp_path, *kinds)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" accepted") + done.stdout.count(" refused") >= len(counts)
