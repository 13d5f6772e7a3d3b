from pathlib import Path

import pytest

from configs.artifacts import file_sha256, write_json
from configs.records import to_json
from configs.resume import take_step
from configs.run_dir import RunDir
from eval.devices.machine import Machine
from eval.devices.probe import MachineState
from eval.timing import results
from eval.timing.results import (
    device_inputs,
    latency_path,
    latency_step,
    load_latency,
    load_machine,
    load_packages,
)
from support import latency_of


def test_first_rows_are_of_one_device(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    files = ["a.tflite", "b.onnx"]
    for name in files:
        run.file(name).parent.mkdir(exist_ok=True)
        run.file(name).write_text(name)

    def timed(device: str, names: list[str]) -> None:
        digests = {name: file_sha256(run.file(name)) for name in names}
        latency = {name: to_json(latency_of(1.0, device=device)) for name in names}
        latency_path(run, device).parent.mkdir(exist_ok=True)
        write_json(latency_path(run, device), {"inputs": {"files": digests}, "latency": latency})

    def devices_of(*devices: str) -> dict[str, list[str]]:
        rows = load_latency(run, list(devices), files)
        return {name: [latency.device for latency in of_file] for name, of_file in rows.items()}

    # A phone executes no ONNX files, so the device that timed all files comes first.
    timed("android", files[:1])
    timed("local", files)
    assert devices_of("android", "local") == {"a.tflite": ["local", "android"], "b.onnx": ["local"]}
    # If no device timed all files, the first one counts, and its missing files are left out.
    assert devices_of("android") == {"a.tflite": ["android"]}
    run.file("b.onnx").write_text("changed since")
    assert devices_of("local", "android") == {"a.tflite": ["local", "android"]}


def test_what_a_board_does_not_say_is_not_filled_in_from_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    file = run.file("a.tflite")
    file.parent.mkdir()
    file.write_text("a")
    board = latency_of(1.0, device="ssh:board", state=MachineState(cpu="Raspberry Pi 4"))
    monkeypatch.setattr(results, "time_together", lambda *args, **options: {file: board})
    manifest = take_step(
        latency_step(
            run,
            [file],
            device="ssh",
            options={"host": "board"},
            num_threads=1,
            num_warmup=1,
            num_runs=10,
        )
    )
    assert manifest["machine"] == {
        "cpu": "Raspberry Pi 4",
        "num_cores": None,
        "isa": None,
        "os": None,
        "python": None,
        "packages": None,
    }
    assert manifest["packages_here"]["numpy"]


def test_results_of_older_versions_do_not_describe_a_board_by_the_machine_of_the_command(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path)
    latency = to_json(latency_of(1.0, device="ssh:board", state=MachineState(cpu="Pi 4")))
    host = {
        "num_cores": 64,
        "isa": ["avx2"],
        "os": "Linux",
        "python": "3.11",
        "packages": {"a": "1"},
    }
    latency_path(run, "ssh:board").parent.mkdir()
    write_json(
        latency_path(run, "ssh:board"),
        {
            "inputs": {"files": {}, "device": {"name": "ssh"}},
            "machine": {"cpu": "Pi 4", **host},
            "latency": {"a.tflite": latency},
        },
    )
    assert load_machine(run, "ssh:board") == Machine.of_state(MachineState(cpu="Pi 4"))
    assert load_packages(run, "ssh:board") == {"a": "1"}


def test_a_measurement_depends_on_the_program_that_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "program").write_text("a program")
    digest = file_sha256(tmp_path / "program")
    assert device_inputs("android", {"benchmark_model": "~/program"})["tool"] == digest


def test_a_measurement_without_a_program_depends_on_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "None").write_text("a file that happens to be called None")
    assert device_inputs("ssh", {"host": "board", "benchmark_model": None})["tool"] is None
