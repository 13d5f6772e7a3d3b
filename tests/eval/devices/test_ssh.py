"""Devices that ssh reaches, against a real OpenSSH server on this machine."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from configs.errors import StepFailed, UserError
from eval.devices import session as session_module
from eval.devices.probe import open_model
from eval.devices.registry import DEVICES, parse_device
from eval.devices.session import DeviceLost
from eval.devices.ssh import device_path
from eval.timing.measure import measure
from eval.timing.rounds import Journal
from ssh_server import SSHD, Server, ssh_server
from support import ROOT, Outcome

ssh = DEVICES["ssh"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SSHD is None:
        pytest.skip("no OpenSSH server here")
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def test_files_are_timed_there_and_nothing_is_left(
    server: Server, onnx_file: Path, tflite_files: dict[str, Path]
) -> None:
    files = [onnx_file, tflite_files["int8"]]
    options = {"host": "board", "python": sys.executable, "config": str(server.config)}
    rows = measure(files, device="ssh", options=options, num_warmup=2, num_runs=12)
    for file in files:
        assert rows[file].device == "ssh:board"
        assert len(rows[file].times_ms) == 12
        assert rows[file].p50_ms > 0
        assert (rows[file].peak_rss_mib or 0) > 10
    assert not server.call_folders()


def test_answers_are_the_same_there_and_here(
    server: Server, onnx_file: Path, colours: np.ndarray
) -> None:
    image = colours[1].astype("float32")
    with ssh(host="board", python=sys.executable, config=str(server.config)) as board:
        session = board.open(onnx_file, num_threads=1)
        there = session.predict(image)
        session.close()
    # The same runtime on the same processor: bit for bit.
    np.testing.assert_array_equal(there, open_model(onnx_file).predict(image[None])[0])


def test_weights_in_a_second_file_are_copied_too(
    server: Server, onnx_file: Path, colours: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "split.onnx"
    onnx.save(
        onnx.load(onnx_file),
        path,
        save_as_external_data=True,
        location="it's split.data",
        size_threshold=70,  # the matrix goes, the axes stay
    )
    assert (tmp_path / "it's split.data").exists()
    image = colours[1].astype("float32")
    with ssh(host="board", python=sys.executable, config=str(server.config)) as board:
        session = board.open(path, num_threads=1)
        there = session.predict(image)
        session.close()
    np.testing.assert_array_equal(there, open_model(onnx_file).predict(image[None])[0])
    assert not server.call_folders()


def test_what_a_login_shell_prints_does_no_harm(server: Server, onnx_file: Path) -> None:
    options = {"host": "chatty", "python": sys.executable, "config": str(server.config)}
    with ssh(**options) as board:
        assert board.machine().num_cores == os.cpu_count()
        session = board.open(onnx_file, num_threads=1)
        assert len(session.run(3)) == 3
        session.close()


def test_a_board_is_back_after_its_connection_broke(server: Server, onnx_file: Path) -> None:
    with ssh(host="board", python=sys.executable, config=str(server.config)) as board:
        session = board.open(onnx_file, num_threads=1)
        server.cut()
        with pytest.raises(DeviceLost, match="connection to board broke"):
            session.run(1000)
        assert board.is_back()
        again = board.open(onnx_file, num_threads=1)
        assert len(again.run(3)) == 3
        again.close()


def test_a_measurement_continues_after_the_connection_broke(
    server: Server,
    onnx_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = tmp_path / "rounds.jsonl"

    def cut_after_two_rounds() -> None:
        while len(stored.read_text().splitlines() if stored.exists() else []) < 2:
            time.sleep(0.01)
        server.cut()

    thread = threading.Thread(target=cut_after_two_rounds)
    thread.start()
    options = {"host": "board", "python": sys.executable, "config": str(server.config)}
    journal = Journal(stored)
    monkeypatch.setattr(logging.getLogger("potstill"), "propagate", True)
    rows = measure([onnx_file], device="ssh", options=options, num_runs=80, journal=journal)
    thread.join()
    assert "connection to board broke" in caplog.text
    assert "of 8 rounds are done. Waiting for the device" in caplog.text
    assert len(rows[onnx_file].times_ms) == 80
    assert len(journal.rounds()) == 8


MEASUREMENT = """
import json, sys
from pathlib import Path
from configs.process.stopping import Stopped, stops_on_signals
from eval.timing.measure import measure
from eval.timing.rounds import Journal
file, options, stored = sys.argv[1:]
with stops_on_signals():
    try:
        measure(
            [Path(file)], device="ssh", options=json.loads(options), num_runs=200,
            journal=Journal(Path(stored)),
        )
    except Stopped:
        print("stopped")
"""


def test_a_measurement_that_is_asked_to_end_leaves_nothing_on_the_board(
    server: Server, onnx_file: Path, tmp_path: Path
) -> None:
    stored = tmp_path / "rounds.jsonl"
    options = {"host": "board", "python": sys.executable, "config": str(server.config)}
    process = subprocess.Popen(
        [sys.executable, "-c", MEASUREMENT, onnx_file, json.dumps(options), stored],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    while process.poll() is None and not (stored.exists() and stored.read_text()):
        time.sleep(0.01)
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert output == "stopped\n", errors
    assert not server.call_folders()
    assert 1 <= len(Journal(stored).rounds()) < 20


def test_what_is_wrong_with_a_file_reaches_the_caller(server: Server, tmp_path: Path) -> None:
    (tmp_path / "it's bad.tflite").write_text("text")
    with (
        ssh(host="board", python=sys.executable, config=str(server.config)) as board,
        pytest.raises(StepFailed, match=r"it's bad\.tflite on board failed: it is no TFLite model"),
    ):
        board.open(tmp_path / "it's bad.tflite", num_threads=1)


def test_a_crash_there_is_not_a_lost_connection(
    server: Server, onnx_file: Path, tmp_path: Path
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text(f'#!/bin/sh\n[ "$1" = - ] && exec {sys.executable} "$@"\nkill -SEGV $$\n')
    crashing.chmod(0o755)
    with (
        ssh(host="board", python=str(crashing), config=str(server.config)) as board,
        pytest.raises(StepFailed, match=r"ended early \(exit code 139\)") as caught,
    ):
        board.open(onnx_file, num_threads=1)
    assert not isinstance(caught.value, DeviceLost)


def test_a_probe_that_hangs_there_is_ended(
    server: Server, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = tmp_path / "python"
    hanging.write_text(f'#!/bin/sh\n[ "$1" = - ] && exec {sys.executable} "$@"\nexec sleep 20\n')
    hanging.chmod(0o755)
    monkeypatch.setattr(session_module, "LOADING_SECONDS", 1.0)
    expected = r"on board did not answer within 1 s[\s\S]*Check with: evaluate devices TARGET"
    with (
        ssh(host="board", python=str(hanging), config=str(server.config)) as board,
        pytest.raises(StepFailed, match=expected) as caught,
    ):
        board.open(onnx_file, num_threads=1)
    assert not isinstance(caught.value, DeviceLost)


def test_paths_of_the_config_are_of_the_machine_that_they_lie_on(
    server: Server, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`config` and `wheels` lie here, where HOME is another one than on the board."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ssh_config").symlink_to(server.config)
    (tmp_path / "wheels").mkdir()
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    python, no_wheels = str(bare / "bin" / "python"), f"no wheels of .* in {tmp_path}/wheels"
    with (
        ssh(host="board", python=python, wheels="~/wheels", config="~/ssh_config") as board,
        pytest.raises(UserError, match=no_wheels),
    ):
        board.open(onnx_file, num_threads=1)


def test_a_board_is_described(server: Server) -> None:
    with ssh(host="board", python=sys.executable, config=str(server.config)) as board:
        machine = board.machine()
    assert machine.python == ".".join(map(str, sys.version_info[:3]))
    assert machine.num_cores == os.cpu_count()
    assert machine.packages is not None
    assert "onnxruntime" in machine.packages


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("~/venv/bin/python", "~/venv/bin/python"),
        ("~pi/my venv/python", "~pi/'my venv/python'"),
        ("~", "~"),
        ("/opt/~/python", "'/opt/~/python'"),
        ("~$(reboot)/python", "'~$(reboot)/python'"),
    ],
)
def test_a_tilde_is_the_home_directory_of_the_device(path: str, word: str) -> None:
    assert device_path(path) == word


@pytest.mark.parametrize(
    ("host", "advice"),
    [
        ("stranger", "host key is not known here: log in once"),
        ("locked", "give it a key first, with ssh-copy-id"),
    ],
)
def test_an_error_of_ssh_says_what_the_user_must_do(server: Server, host: str, advice: str) -> None:
    with pytest.raises(DeviceLost, match=advice), ssh(host=host, config=str(server.config)):
        pass


def test_an_error_names_a_host_that_is_not_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host gone\n HostName 127.0.0.1\n Port 9\n")
    with (
        pytest.raises(DeviceLost, match=r"gone cannot be reached: .*refused"),
        ssh(host="gone", config=str(tmp_path / "config")),
    ):
        pass


def test_a_board_without_python_gets_advice(server: Server) -> None:
    with (
        pytest.raises(StepFailed, match=r"not found[\s\S]*needs Python 3.9"),
        ssh(host="board", python="python9; touch /tmp/no", config=str(server.config)),
    ):
        pass


def test_a_board_without_a_runtime_needs_wheels(
    server: Server, onnx_file: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    with (
        pytest.raises(UserError, match=r"no wheels of onnxruntime==.* for Python 3"),
        ssh(
            host="board",
            python=str(bare / "bin" / "python"),
            wheels=str(tmp_path),
            config=str(server.config),
        ) as board,
    ):
        board.open(onnx_file, num_threads=1)
    assert not server.call_folders()


@pytest.mark.slow
def test_a_runtime_is_downloaded_once_for_a_board_that_has_none(
    server: Server, onnx_file: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    for _ in range(2):
        with ssh(
            host="board", python=str(bare / "bin" / "python"), config=str(server.config)
        ) as board:
            session = board.open(onnx_file, num_threads=1)
            assert session.ready.runtime == "onnxruntime"
            session.close()
    assert len(list(server.cache.glob("potstill/site-*"))) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", ("local", {})),
        ("ssh:pi@kitchen", ("ssh", {"host": "pi@kitchen"})),
        (
            "{name: ssh, host: pi, python: python3.11}",
            ("ssh", {"host": "pi", "python": "python3.11"}),
        ),
    ],
)
def test_a_device_is_read_from_a_text(text: str, expected: tuple[str, dict[str, str]]) -> None:
    name, options = parse_device(text)
    assert (name, {k: options[k] for k in expected[1]}) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("shh:pi", "unknown device 'shh'. Did you mean ssh"),
        ("local:here", "device local has no address"),
        ("{name: ssh, hots: pi}", "no option hots. Did you mean host"),
        ("{name: [", "Expected a device as in a config"),
        ("{host: pi}", "Expected a device as in a config"),
    ],
)
def test_a_device_that_cannot_be_read_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse_device(text)


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch /tmp/no", "two words"])
def test_a_text_that_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(UserError, match="ssh needs a host"), ssh(host=host):
        pass


def test_files_are_verified_there(
    server: Server, program: Callable[..., Outcome], onnx_file: Path, photo_folder: Path
) -> None:
    there = f"{{name: ssh, host: board, python: {sys.executable}, config: {server.config}}}"
    words = ["evaluate", "latency", onnx_file, "--device", there, "--verify", 5]
    outcome = program(*words, "--data", photo_folder, "--json")
    (row,) = json.loads(outcome.out.splitlines()[-1])["verified"]
    assert row == {
        "name": onnx_file.name, "device": "ssh:board", "n": 5, "argmax_equal": 5, "max_abs_diff": 0,
    }  # fmt: skip
    assert "--data is missing" in program(*words).err
    assert "it measures no time" in program(*words, "--num-runs", 3).err
    assert "--layout has no effect on --verify" in program(*words, "--layout", "nchw").err


def test_devices_are_checked(server: Server, program: Callable[..., Outcome]) -> None:
    there = f"{{name: ssh, host: board, python: {sys.executable}, config: {server.config}}}"
    outcome = program("evaluate", "devices", "--device", there, "--device", "local", "--json")
    board, local = json.loads(outcome.out)["devices"]
    assert (outcome.code, board["device"], local["device"]) == (0, "ssh:board", "local")
    assert board["machine"]["cpu"] == local["machine"]["cpu"]
    # With a device that is not there the command fails, and still shows the other.
    devices = ["--device", "local", "--device", "ssh:nobody@127.0.0.9"]
    outcome = program("evaluate", "devices", *devices)
    assert outcome.code == 1
    assert "nobody@127.0.0.9 cannot be reached" in outcome.out
    assert local["machine"]["cpu"] in outcome.out
