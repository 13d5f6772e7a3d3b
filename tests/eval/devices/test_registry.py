"""Devices by name, and the session with a probe on this machine."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.errors import StepFailed, UserError
from eval.devices import session as session_module
from eval.devices.registry import DEVICES, device_label, path_here
from eval.devices.session import ProbeSession

local = DEVICES["local"]

LOADED = "m " + json.dumps(
    {
        "ready": True, "load_ms": 1.0, "first_ms": 1.0, "runtime": "litert",
        "runtime_version": "2.3", "batch": 1, "state": {},
    }
)  # fmt: skip
"""The first message of a probe whose marker is "m"."""


def start(code: str, tmp_path: Path) -> ProbeSession:
    """A session with a probe that is this Python code; its marker is "m"."""
    command = [sys.executable, "-c", f"import os, sys, time\n{code}"]
    return ProbeSession(command, tmp_path / "a.tflite", marker="m")


def say(*lines: str) -> str:
    """Python code that prints the lines."""
    return f"print({chr(10).join(lines)!r}, flush=True)"


def test_a_session_runs_and_ends_with_its_peak_memory(onnx_file: Path) -> None:
    with local() as here:
        session = here.open(onnx_file, num_threads=1)
    assert session.ready.runtime == "onnxruntime"
    assert len(session.run(3)) == 3
    assert (session.close().peak_rss_mib or 0) > 10
    session.kill()  # harmless afterwards


def test_what_is_wrong_with_a_file_reaches_the_caller(tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_text("text")
    with (
        local() as here,
        pytest.raises(StepFailed, match=r"bad\.tflite failed: .* no TFLite"),
    ):
        here.open(tmp_path / "bad.tflite", num_threads=1)


def test_a_crash_while_loading_shows_the_error_output(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"ended early \(exit code -6\)\. out of luck"):
        start("sys.stderr.write('out of luck'); sys.stderr.flush(); os.abort()", tmp_path)


def test_a_crash_between_executions_shows_the_error_output(tmp_path: Path) -> None:
    session = start(f"{say(LOADED)}; sys.stdin.close(); sys.exit('no more')", tmp_path)
    session._process.wait(timeout=60)
    with pytest.raises(StepFailed, match="no more"):
        session.run(1)
    session.kill()


def test_a_line_of_the_error_output_that_repeats_is_shown_once(tmp_path: Path) -> None:
    noise = "sys.stderr.write('INFO: delegate\\n' * 3)"
    session = start(f"{say(LOADED)}; sys.stdin.close(); {noise}; sys.exit('no more')", tmp_path)
    session._process.wait(timeout=60)
    with pytest.raises(StepFailed, match=r"\(exit code 1\)\. INFO: delegate\nno more"):
        session.run(1)
    session.kill()


def test_lines_that_look_like_answers_are_skipped(tmp_path: Path) -> None:
    noise = say('{"motd": "welcome", "ready": true}', "{ unbalanced", "m is no JSON", "x m {}")
    noise += "; sys.stdout.buffer.write(b'\\xff\\xfe { no UTF-8\\n'); sys.stdout.flush()"
    answer = f"sys.stdin.readline(); {noise}; {say('m ' + json.dumps({'times_ms': [2.5]}))}"
    session = start(f"{noise}; {say(LOADED)}; {answer}; sys.stdin.read()", tmp_path)
    assert session.ready.runtime == "litert"
    assert session.run(1) == [2.5]
    session.kill()


def test_a_probe_that_hangs_while_loading_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LOADING_SECONDS", 0.5)
    expected = (
        r"did not answer within 0 s\. Expected the message that the file is loaded; got "
        r"'Last login: today'\.[\s\S]*Check with: evaluate predict FILE PHOTO"
    )
    with pytest.raises(StepFailed, match=expected):
        start(f"{say('Last login: today')}; time.sleep(60)", tmp_path)


def test_a_probe_that_hangs_between_executions_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = start(f"{say(LOADED)}; time.sleep(60)", tmp_path)
    monkeypatch.setattr(session_module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(session_module, "BYTES_PER_SECOND", 1e9)
    image = np.zeros((200, 200, 3), "float32")  # more than the pipe holds
    with pytest.raises(StepFailed, match="Expected the answer to an image; got nothing"):
        session.predict(image)
    assert session._process.poll() is not None


def test_a_measurement_that_takes_long_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first execution took a second, so another may take longer than other answers."""
    monkeypatch.setattr(session_module, "ANSWER_SECONDS", 0.2)
    slow = LOADED.replace('"first_ms": 1.0', '"first_ms": 1000.0')
    answer = f"sys.stdin.readline(); time.sleep(1); {say('m ' + json.dumps({'times_ms': [50.0]}))}"
    session = start(f"{say(slow)}; {answer}; sys.stdin.read()", tmp_path)
    assert session.run(1) == [50.0]
    session.kill()


def test_a_tilde_in_a_path_here_is_the_home_directory_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_here("~/wheels") == tmp_path / "wheels"
    assert path_here("adb") == Path("adb")
    with pytest.raises(UserError, match="there is no such user here"):
        path_here("~nobody-of-this-name/wheels")


def test_the_label_of_a_device_says_what_sets_it_apart() -> None:
    assert device_label("local", {"cores": [1]}) == "local (cores 1)"
    assert device_label("ssh", {"host": "pi"}) == "ssh:pi"
