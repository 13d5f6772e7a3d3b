"""Latencies in a run directory: written by a step, read for the report."""

import re
from pathlib import Path

from configs.artifacts import file_sha256, read_json
from configs.progress import track
from configs.records import from_json, to_json
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from eval.devices.machine import Machine, installed_packages, this_machine
from eval.devices.probe import MachineState
from eval.devices.registry import Options, device_label, path_here
from eval.footprint import model_sha256
from eval.timing.latency import Latency
from eval.timing.measure import measure
from eval.timing.rounds import RUNS_PER_ROUND, Journal


def latency_step(
    run: RunDir,
    files: list[Path],
    *,
    device: str,
    options: Options,
    num_threads: int,
    num_warmup: int,
    num_runs: int,
) -> Step:
    """Time the files of a run on one device, into results/latency-<device>.json."""
    label = device_label(device, options)
    path = latency_path(run, label)
    inputs = {
        "files": {file.name: model_sha256(file) for file in files},
        "device": device_inputs(device, options),
        "runs": [num_threads, num_warmup, num_runs, RUNS_PER_ROUND],
    }

    def build(workspace: Workspace) -> Built:
        rows = time_together(
            files,
            device=device,
            options=options,
            num_threads=num_threads,
            num_warmup=num_warmup,
            num_runs=num_runs,
            journal=Journal(workspace.file("rounds.jsonl")),
        )
        state = next(iter(rows.values())).state
        packages = installed_packages() if device == "local" else None
        return [], {
            "machine": to_json(Machine.of_state(state, packages=packages)),
            "packages_here": installed_packages(),
            "latency": {
                file.name: {**to_json(row), "times_ms": list(row.times_ms)}
                for file, row in rows.items()
            },
        }

    return Step(f"latency on {label}", path, inputs, build)


def device_inputs(device: str, options: Options) -> dict[str, object]:
    """What a measurement depends on besides its files, as JSON values."""
    tool = path_here(options["benchmark_model"]) if options.get("benchmark_model") else None
    return {
        "name": device,
        **{key: value for key, value in options.items() if key not in ("wheels", "port")},
        "tool": file_sha256(tool) if tool and tool.is_file() else None,
        "host": to_json(this_machine()) if device == "local" else None,
    }


def time_together(
    files: list[Path],
    *,
    device: str = "local",
    options: Options | None = None,
    num_threads: int,
    num_warmup: int,
    num_runs: int,
    journal: Journal | None = None,
) -> dict[Path, Latency]:
    """The latency of each file that the device executes; shows progress (see `measure`)."""
    with track(
        f"latency on {device_label(device, options or {})}", (len(set(files)) + 1) * num_runs
    ) as advance:
        return measure(
            files,
            device=device,
            options=options or {},
            num_threads=num_threads,
            num_warmup=num_warmup,
            num_runs=num_runs,
            journal=journal,
            progress=advance,
        )


def load_latency(run: RunDir, devices: list[str], files: list[str]) -> dict[str, list[Latency]]:
    """The latencies of each file, one for each device that timed it.

    The first latency of every file is from the same device, so that these can be compared. That is
    the first device that timed all of `files`, or else the first of `devices`; a file that it did
    not time is left out. So is a latency that is older than its file.
    """
    by_file: dict[str, list[Latency]] = {}
    for device in devices:
        path = latency_path(run, device)
        stored = read_json(path) if path.exists() else {"latency": {}}
        for name, row in stored["latency"].items():
            file = run.file(name)
            if file.exists() and stored["inputs"]["files"][name] == model_sha256(file):
                by_file.setdefault(name, []).append(from_json(Latency, row))
    timed_on = {
        device: {name for name in files for row in by_file.get(name, []) if row.device == device}
        for device in devices
    }
    first = next((device for device in devices if timed_on[device] == set(files)), devices[0])
    return {
        name: sorted(rows, key=lambda row: row.device != first)
        for name, rows in by_file.items()
        if name in timed_on[first]
    }


def load_machine(run: RunDir, device: str) -> Machine:
    """The machine that files were timed on, by the label of the device.

    It is made from what the machine said about itself. In results of older versions, `machine` also
    has facts of the machine that ran the command.
    """
    stored = read_json(latency_path(run, device))
    state = from_json(MachineState, next(iter(stored["latency"].values()))["state"])
    is_local = stored["inputs"]["device"]["name"] == "local"
    return Machine.of_state(state, packages=stored["machine"]["packages"] if is_local else None)


def load_packages(run: RunDir, device: str) -> dict[str, str]:
    """Versions of the packages on the machine whose command timed the files on a device."""
    stored = read_json(latency_path(run, device))
    return dict(stored.get("packages_here") or stored["machine"]["packages"])


def latency_path(run: RunDir, device: str) -> Path:
    """The file with the latencies of one device, by the label of `device_label`."""
    return run.path / "results" / f"latency-{file_part(device)}.json"


def file_part(label: str) -> str:
    """The label of a device as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.@_-]", "-", label)
