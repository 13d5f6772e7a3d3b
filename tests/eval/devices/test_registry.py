import sys
from pathlib import Path

import pytest

from configs.errors import StepFailed
from eval.devices.registry import DEVICES, device_label
from eval.devices.session import ProbeSession

local = DEVICES["local"]


def test_a_session_runs_and_ends_with_its_peak_memory(onnx_file: Path) -> None:
    with local() as here:
        session = here.open(onnx_file, num_threads=1)
    assert session.ready["runtime"] == "onnxruntime"
    assert len(session.run(3)) == 3
    assert session.close()["peak_rss_mib"] > 10
    session.kill()  # harmless afterwards


def test_what_is_wrong_with_a_file_reaches_the_caller(tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_text("text")
    with local() as here, pytest.raises(StepFailed, match=r"bad\.tflite failed: no TFLite model"):
        here.open(tmp_path / "bad.tflite", num_threads=1)


def test_a_crash_while_loading_shows_the_last_words(tmp_path: Path) -> None:
    dying = "import os, sys; sys.stderr.write('out of luck'); sys.stderr.flush(); os.abort()"
    with pytest.raises(StepFailed, match=r"ended early \(exit code -6\)\. out of luck"):
        ProbeSession([sys.executable, "-c", dying], tmp_path / "a.tflite")


def test_a_crash_between_runs_shows_the_last_words(tmp_path: Path) -> None:
    dying = "import sys; print('{}', flush=True); sys.stdin.close(); sys.exit('no more')"
    session = ProbeSession([sys.executable, "-c", dying], tmp_path / "a.tflite")
    session._process.wait(timeout=60)
    with pytest.raises(StepFailed, match="no more"):
        session.run(1)
    session.kill()


def test_the_label_of_a_device_says_what_sets_it_apart() -> None:
    assert device_label("local", {"cores": [1]}) == "local (cores 1)"
    assert device_label("ssh", {"host": "pi"}) == "ssh:pi"
