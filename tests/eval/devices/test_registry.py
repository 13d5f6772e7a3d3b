import json
import sys
from pathlib import Path

import pytest

from configs.errors import StepFailed
from eval.devices import session as session_module
from eval.devices.registry import DEVICES, device_label
from eval.devices.session import ProbeSession

local = DEVICES["local"]

LOADED = "m " + json.dumps(
    {
        "ready": True, "load_ms": 1.0, "first_ms": 1.0, "runtime": "litert",
        "runtime_version": "2.3", "batch": 1, "state": {},
    }
)  # fmt: skip
"""The first message of a probe whose marker is "m"."""


def test_a_session_runs_and_ends_with_its_peak_memory(onnx_file: Path) -> None:
    with local() as here:
        session = here.open(onnx_file, num_threads=1)
    assert session.ready.runtime == "onnxruntime"
    assert len(session.run(3)) == 3
    assert session.close().peak_rss_mib > 10
    session.kill()  # harmless afterwards


def test_what_is_wrong_with_a_file_reaches_the_caller(tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_text("text")
    with local() as here, pytest.raises(StepFailed, match=r"bad\.tflite failed: no TFLite model"):
        here.open(tmp_path / "bad.tflite", num_threads=1)


def test_a_crash_while_loading_shows_the_last_words(tmp_path: Path) -> None:
    dying = "import os, sys; sys.stderr.write('out of luck'); sys.stderr.flush(); os.abort()"
    with pytest.raises(StepFailed, match=r"ended early \(exit code -6\)\. out of luck"):
        ProbeSession([sys.executable, "-c", dying], tmp_path / "a.tflite", marker="m")


def test_a_crash_between_runs_shows_the_last_words(tmp_path: Path) -> None:
    dying = f"import sys; print({LOADED!r}, flush=True); sys.stdin.close(); sys.exit('no more')"
    session = ProbeSession([sys.executable, "-c", dying], tmp_path / "a.tflite", marker="m")
    session._process.wait(timeout=60)
    with pytest.raises(StepFailed, match="no more"):
        session.run(1)
    session.kill()


def test_a_banner_that_looks_like_an_answer_is_skipped(tmp_path: Path) -> None:
    banner = '{"motd": "welcome", "ready": true}'
    talking = f"import sys; print({banner!r}); print({LOADED!r}, flush=True); sys.stdin.read()"
    session = ProbeSession([sys.executable, "-c", talking], tmp_path / "a.tflite", marker="m")
    assert session.ready.runtime == "litert"
    session.kill()


def test_a_probe_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LOADING_SECONDS", 0.5)
    silent = "import sys; print('Last login: today', flush=True); sys.stdin.read()"
    with pytest.raises(StepFailed, match=r"did not answer within 0 s.*got 'Last login: today'"):
        ProbeSession([sys.executable, "-c", silent], tmp_path / "a.tflite", marker="m")


def test_a_measurement_that_takes_long_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One execution took a second to begin with, so 20 may take longer than an answer may."""
    monkeypatch.setattr(session_module, "ANSWER_SECONDS", 0.2)
    slow = LOADED.replace('"first_ms": 1.0', '"first_ms": 1000.0')
    answer = 'm {"times_ms": [50.0]}'
    working = (
        f"import sys, time; print({slow!r}, flush=True); sys.stdin.readline(); "
        f"time.sleep(1); print({answer!r}, flush=True); sys.stdin.read()"
    )
    session = ProbeSession([sys.executable, "-c", working], tmp_path / "a.tflite", marker="m")
    assert session.run(1) == [50.0]
    session.kill()


def test_the_label_of_a_device_says_what_sets_it_apart() -> None:
    assert device_label("local", {"cores": [1]}) == "local (cores 1)"
    assert device_label("ssh", {"host": "pi"}) == "ssh:pi"
