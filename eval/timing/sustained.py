"""What is measured of one file at a time: sustained load, a stream of queries, its operators."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from configs.artifacts import file_sha256
from configs.errors import UserError
from configs.progress import track
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from eval.devices.registry import DEVICES, Session, device_label
from eval.timing.results import device_inputs, file_part
from eval.timing.rounds import warm_up

NUM_INTERVALS = 20
MIN_QUERIES = 1024
MIN_SECONDS = 60.0
CHANGING = ("mhz", "temperature_c", "load")
"""What of a machine's state changes while it works."""

Task = Callable[[Session], dict[str, Any]]
"""What is done with a file once it is loaded; returns what is to be kept."""


def thermal_curve(session: Session, *, seconds: float) -> dict[str, Any]:
    """A file run without a pause, from a standing start.

    Returns:
        `intervals`: for each of NUM_INTERVALS equal parts of the time the minute it ended at, its
        p50 and p90, and frequency, temperature and load at its end as far as they are known.
    """
    intervals: list[dict[str, Any]] = []
    elapsed_ms = 0.0
    for _ in range(NUM_INTERVALS):
        times_ms = _run_for(session, seconds / NUM_INTERVALS)
        elapsed_ms += sum(times_ms)
        state = {k: v for k, v in session.state().items() if k in CHANGING}
        p50, p90 = np.percentile(times_ms, [50, 90])
        minute = elapsed_ms / 60_000
        intervals.append({"minute": minute, "p50_ms": float(p50), "p90_ms": float(p90), **state})
    return {"intervals": intervals}


def single_stream(
    session: Session, *, num_queries: int = MIN_QUERIES, seconds: float = MIN_SECONDS
) -> dict[str, Any]:
    """The p90 of queries that follow each other, once both minima are reached.

    The single-stream scenario of the MLPerf Inference rules, version 0.7, section 3 (Reddi et al.
    2020, arXiv:1911.02549); later versions ask for 600 seconds and stop early. Not a result by
    MLPerf: its load generator did not take part.

    Returns:
        `num_queries`, `seconds`, `p50_ms`, `p90_ms`, `p99_ms` and every time as `times_ms`.
    """
    warm_up(session, 10)
    times_ms = _run_for(session, seconds, num_queries)
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    return {
        "num_queries": len(times_ms),
        "seconds": sum(times_ms) / 1000,
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "times_ms": times_ms,
    }


def operator_profile(session: Session) -> dict[str, Any]:
    """`operators`: milliseconds in each type of operator, the longest first.

    Raises:
        StepFailed: the runtime does not tell, as LiteRT.
    """
    warm_up(session, 10)
    return {"operators": session.profile(50)}


def _run_for(session: Session, seconds: float, at_least: int = 1) -> list[float]:
    """Milliseconds of executions one after the other that together take so long, and so many."""
    times_ms = session.run(1)
    while (left_ms := 1000 * seconds - sum(times_ms)) > 0 or len(times_ms) < at_least:
        typical_ms = float(np.median(times_ms[-50:]))
        # Requests of up to a second: the device hears of the end, and the pipe does not count.
        num_left = max(left_ms / typical_ms, at_least - len(times_ms))
        times_ms += session.run(max(1, int(min(num_left, 1000 / typical_ms))))
    return times_ms


def sustain(
    files: list[Path],
    task: Task,
    *,
    name: str,
    device: str = "local",
    options: dict[str, Any] | None = None,
    num_threads: int = 1,
) -> dict[str, dict[str, Any]]:
    """Do `task` with one file after the other, each loaded alone.

    Args:
        name: what the work is called while it goes on.

    Returns:
        By the file's name (its path, where two have one name): what the task returned, and
        device, runtime, threads and state.

    Raises:
        StepFailed: a file cannot be run there.
        UserError: the device runs none of the files, or tells no times of single executions.
    """
    told, label = {}, device_label(device, options or {})
    with (
        DEVICES[device](**(options or {})) as there,
        track(f"{name} on {label}", len(files)) as advance,
    ):
        if there.tells_means:
            raise UserError(f"{label} tells means of many executions. Name another device.")
        able = [file for file in files if file.suffix.lower() in there.formats]
        names = {file: file.name for file in able}
        if len(set(names.values())) < len(able):
            names = {file: str(file) for file in able}
        for number, file in enumerate(able, 1):
            session = there.open(file, num_threads=num_threads)
            try:
                ready, found = session.ready, task(session)
                session.close()
            except BaseException:
                session.kill()
                raise
            told[names[file]] = {
                "device": label,
                "runtime": f"{ready['runtime']} {ready['runtime_version']}".strip(),
                "num_threads": num_threads,
                "state": ready.get("state", {}),
                **found,
            }
            advance(number)
    return told


def sustain_step(
    run: RunDir,
    files: list[Path],
    task: Task,
    *,
    name: str,
    settings: dict[str, Any],
    device: str,
    options: dict[str, Any],
    num_threads: int,
) -> Step:
    """The same for files of a run: results/<name>-<device>.json.

    Args:
        settings: what the task was made with.
    """
    inputs = {
        "files": {file.name: file_sha256(file) for file in files},
        "device": device_inputs(device, options),
        "num_threads": num_threads,
        "settings": settings,
    }

    def build(workspace: Workspace) -> Built:
        told = sustain(
            files, task, name=name, device=device, options=options, num_threads=num_threads
        )
        return [], {"files": told}

    label = device_label(device, options)
    path = run.path / "results" / f"{name}-{file_part(label)}.json"
    return Step(f"{name} on {label}", path, inputs, build)
