"""How long files take: every file in its own process, in interleaved rounds."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eval.devices import DEVICES, device_label
from eval.probe_session import ProbeSession

NUM_ROUNDS = 10


def measure(
    files: list[Path],
    *,
    device: str = "local",
    options: dict[str, Any] | None = None,
    num_threads: int = 1,
    num_warmup: int = 10,
    num_runs: int = 200,
    progress: Callable[[int], None] | None = None,
) -> dict[Path, dict[str, Any]]:
    """Time some files on one device.

    The files take turns in rounds, each round starting with another one, so that whatever
    drifts on the machine (heat, frequency, neighbours) hits all alike.

    Args:
        num_runs: timed executions of each file, after `num_warmup` that do not count.

    Returns:
        A latency row of report.json for each file, with the raw times as `times_ms`.

    Raises:
        StepFailed: a file cannot be run there.
    """
    sessions: dict[Path, ProbeSession] = {}
    with DEVICES[device](**(options or {})) as there:
        try:
            for file in dict.fromkeys(files):
                sessions[file] = there.open(file, num_threads=num_threads)
            times = _rounds(sessions, num_warmup, num_runs, progress)
            rows = {}
            for file, session in sessions.items():
                counts = {
                    "num_threads": num_threads, "num_warmup": num_warmup, "num_runs": num_runs,
                }  # fmt: skip
                label = device_label(device, options or {})
                rows[file] = _row(label, session, times[file], counts)
            sessions.clear()
            return rows
        finally:
            for session in sessions.values():
                session.kill()


def _rounds(
    sessions: dict[Path, ProbeSession],
    num_warmup: int,
    num_runs: int,
    progress: Callable[[int], None] | None,
) -> dict[Path, list[float]]:
    files, done = list(sessions), 0
    times: dict[Path, list[float]] = {file: [] for file in files}
    for file in files:
        sessions[file].run(num_warmup)
        done += num_warmup
    for number, count in enumerate(_shares(num_runs, NUM_ROUNDS)):
        start = number % max(len(files), 1)
        for file in files[start:] + files[:start]:
            sessions[file].run(1)  # its caches went cold while the others ran
            times[file] += sessions[file].run(count)
            done += count
            if progress:
                progress(done)
    return times


def _shares(total: int, parts: int) -> list[int]:
    """`total` split into at most `parts` nearly equal shares, none of them empty."""
    edges = [total * i // parts for i in range(parts + 1)]
    return [b - a for a, b in itertools.pairwise(edges) if b > a]


def _row(
    device: str, session: ProbeSession, times_ms: list[float], counts: dict[str, int]
) -> dict[str, Any]:
    ready = session.ready
    percentiles: list[float | None] = [float(p) for p in np.percentile(times_ms, [50, 90, 99])]
    if len(times_ms) < counts["num_runs"]:
        percentiles[1:] = None, None  # a device that tells means says nothing of the slow ones
    p50, p90, p99 = percentiles
    return {
        "device": device,
        "runtime": f"{ready['runtime']} {ready['runtime_version']}".strip(),
        "batch": ready["batch"],
        **counts,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "mean_ms": float(np.mean(times_ms)),
        "load_ms": ready["load_ms"],
        "peak_rss_mib": session.close()["peak_rss_mib"],
        "times_ms": times_ms,
    }
