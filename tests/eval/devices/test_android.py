"""The real `adb` client against a scripted server; the phone's programs are shell scripts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adb_server import AdbServer
from configs.errors import StepFailed, UserError
from eval.devices.registry import DEVICES
from eval.devices.session import DeviceLost
from eval.timing.measure import measure

android = DEVICES["android"]
ADB = shutil.which("adb")

# Prints what Google's program prints, for a model that takes 2.5 ms after its first execution.
BENCHMARK_MODEL = """#!/bin/sh
case "$*" in
  *--graph=*.tflite*--num_threads=*--num_runs=*) ;;
  *) echo "wrong: $*" >&2; exit 1;;
esac
graph=${1#--graph=}
if ! grep -q TFL3 "$graph"; then echo "ERROR: Failed to load model" >&2; exit 1; fi
cat >&2 <<END
INFO: STARTING!
INFO: count=1 first=3000 curr=3000 min=3000 max=3000 avg=3000 std=0
INFO: count=10 first=2600 curr=2500 min=2400 max=2600 avg=2500 std=50
INFO: Inference timings in us: Init: 1390, First inference: 3000, Warmup (avg): 3000, \
Inference (avg): 2500
INFO: Memory footprint delta from the start of the tool (MB): init=0.9 overall=5.6
INFO: Overall peak memory footprint (MB) via periodic monitoring: 12.5
END
"""
GETPROP = """#!/bin/sh
case $1 in
  ro.soc.model) echo SM8550;;
  ro.product.model) echo "Phone 9";;
  *version*) echo 15;;
  *) echo arm64-v8a;;
esac
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbServer]:
    if ADB is None:
        pytest.skip("no adb client here")
    storage = tmp_path / "storage"
    storage.mkdir()
    program(tmp_path / "programs" / "getprop", GETPROP)
    with AdbServer(storage, tmp_path / "programs") as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        yield server


@pytest.fixture
def tool(tmp_path: Path) -> str:
    return str(program(tmp_path / "benchmark_model", BENCHMARK_MODEL))


def test_a_file_is_timed_on_a_phone_and_nothing_is_left(
    phone: AdbServer, tool: str, tflite_files: dict[str, Path], tmp_path: Path
) -> None:
    file = tflite_files["int8"]
    options = {"serial": "emulator-5554", "benchmark_model": tool}
    row = measure([file], device="android", options=options, num_warmup=1, num_runs=20)[file]
    assert (row.device, row.runtime) == ("android:emulator-5554", "benchmark_model")
    assert (row.p50_ms, row.mean_ms) == (2.5, 2.5)
    assert (row.load_ms, row.peak_rss_mib) == (1.39, 12.5)
    # The tool reports means, not the time of each execution.
    assert row.p90_ms is None
    assert not list((tmp_path / "storage").iterdir())


def test_a_phone_is_described(phone: AdbServer, tool: str) -> None:
    with android(benchmark_model=tool) as opened:
        machine = opened.machine()
    assert (machine.cpu, machine.os) == ("Phone 9 SM8550", "Android 15 arm64-v8a")


def test_the_error_of_a_bad_file_reaches_the_caller(
    phone: AdbServer, tool: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.tflite").write_text("text")
    with (
        android(benchmark_model=tool) as opened,
        pytest.raises(StepFailed, match="Failed to load model"),
    ):
        opened.open(tmp_path / "bad.tflite", num_threads=1)


def test_a_phone_that_is_unplugged_is_lost_and_comes_back(
    phone: AdbServer, tool: str, tflite_files: dict[str, Path]
) -> None:
    with android(benchmark_model=tool) as opened:
        session = opened.open(tflite_files["int8"], num_threads=1)
        phone.gone = True
        with pytest.raises(DeviceLost, match=r"cannot be reached: .*not found"):
            session.run(10)
        assert not opened.is_back()
        phone.gone = False
        assert opened.is_back()
        assert session.run(10) == [2.5]


def test_a_phone_gives_no_answers(
    phone: AdbServer, tool: str, tflite_files: dict[str, Path], colours: np.ndarray
) -> None:
    with android(benchmark_model=tool) as opened:
        session = opened.open(tflite_files["int8"], num_threads=1)
        with pytest.raises(UserError, match="reports times"):
            session.predict(colours[0])


def test_an_error_says_which_program_a_phone_needs() -> None:
    with (
        pytest.raises(UserError, match="needs the program benchmark_model"),
        android(benchmark_model="nowhere"),
    ):
        pass


def test_a_tilde_in_a_program_is_the_home_directory_here(
    phone: AdbServer, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "adb").symlink_to(str(ADB))
    with android(benchmark_model="~/benchmark_model", adb="~/adb") as opened:
        assert opened.machine().cpu == "Phone 9 SM8550"
