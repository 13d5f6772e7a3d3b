"""Latencies on disk: written by a step, read for the report."""

import re
from pathlib import Path
from typing import Any

from configs.artifacts import file_sha256, read_json
from configs.progress import track
from configs.records import from_json, to_json
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from eval.devices.machine import machine
from eval.devices.registry import device_label
from eval.timing.latency import Latency
from eval.timing.measure import measure
from eval.timing.rounds import RUNS_PER_ROUND, Journal

MACHINE = ("cpu", "num_cores", "isa", "os", "python")
"""What `machine` of report.json takes from the state of the device that files were timed on."""


def latency_step(
    run: RunDir,
    files: list[Path],
    *,
    device: str,
    options: dict[str, Any],
    num_threads: int,
    num_warmup: int,
    num_runs: int,
) -> Step:
    """Time the files of the run on one device: results/latency-<device>.json, raw times kept."""
    label = device_label(device, options)
    path = latency_path(run, label)
    inputs = {
        "files": {file.name: file_sha256(file) for file in files},
        "device": device_inputs(device, options),
        "runs": [num_threads, num_warmup, num_runs, RUNS_PER_ROUND],
    }

    def build(workspace: Workspace) -> Built:
        rows = timed(
            files,
            device=device,
            options=options,
            num_threads=num_threads,
            num_warmup=num_warmup,
            num_runs=num_runs,
            journal=Journal(workspace.file("rounds.jsonl")),
        )
        # The packages that made the files are those of here, whatever runs them.
        state = to_json(next(iter(rows.values())).state)
        where = machine() | {key: state[key] for key in MACHINE if state[key] is not None}
        return [], {
            "machine": where,
            "latency": {
                file.name: {**to_json(row), "times_ms": list(row.times_ms)}
                for file, row in rows.items()
            },
        }

    return Step(f"latency on {label}", path, inputs, build)


def device_inputs(device: str, options: dict[str, Any]) -> dict[str, Any]:
    """What of a device a measurement depends on, as JSON values."""
    kept = {key: value for key, value in options.items() if key != "wheels"}
    tool = Path(str(options.get("benchmark_model")))
    return {
        "name": device,
        **kept,
        "tool": file_sha256(tool) if tool.is_file() else None,
        "host": machine() if device == "local" else None,
    }


def timed(
    files: list[Path],
    *,
    device: str = "local",
    options: dict[str, Any] | None = None,
    num_threads: int,
    num_warmup: int,
    num_runs: int,
    journal: Journal | None = None,
) -> dict[Path, Latency]:
    """The latency of each file that the device runs, with progress shown on the way."""
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
            if file.exists() and stored["inputs"]["files"][name] == file_sha256(file):
                by_file.setdefault(name, []).append(from_json(Latency, row))
    on = {
        device: {n for n in files for row in by_file.get(n, []) if row.device == device}
        for device in devices
    }
    first = next((device for device in devices if on[device] == set(files)), devices[0])
    return {
        name: sorted(rows, key=lambda row: row.device != first)
        for name, rows in by_file.items()
        if name in on[first]
    }


def latency_path(run: RunDir, device: str) -> Path:
    """Where the times of one device are kept; `device` as `device_label` calls it."""
    return run.path / "results" / f"latency-{file_part(device)}.json"


def file_part(label: str) -> str:
    """A device's label as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.@_-]", "-", label)
