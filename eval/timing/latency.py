"""How long files take, and which differences between them are real."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from eval.devices.registry import DEVICES, device_label
from eval.scoring.statistics import median_interval
from eval.timing.rounds import Journal, Turn, take_rounds

CHANGING = ("mhz", "temperature_c", "load")
"""What of a machine's state moves while it works."""


def measure(
    files: list[Path],
    *,
    device: str = "local",
    options: dict[str, Any] | None = None,
    num_threads: int = 1,
    num_warmup: int = 10,
    num_runs: int = 200,
    journal: Journal | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Path, dict[str, Any]]:
    """Time some files on one device.

    The files take turns in rounds, each round starting with another one, so that whatever drifts
    on the machine (heat, frequency, neighbours) hits all alike. Every round loads every file in
    a new process: where memory comes to lie is drawn once for a process, and no number of runs
    within one averages it out (Kalibera and Jones 2013, Rigorous Benchmarking in Reasonable
    Time). The first file takes part twice: how far it seems from itself is the noise floor.

    Args:
        num_runs: timed executions of each file, ten a round: more of them lower the noise floor.
        num_warmup: least number of executions before those of a round; 0 for none.
        journal: keeps rounds that are done, should this call be cut off.
        progress: told how many timed executions are done, of (files + 1) * num_runs.

    Returns:
        A latency row of report.json for each file that the device runs, with the raw times as
        `times_ms`.

    Raises:
        StepFailed: a file cannot be run there, or the device went away for good.
        UserError: none of the files is for this kind of device.
    """
    files = list(dict.fromkeys(files))
    if not files:
        return {}
    label, journal = device_label(device, options or {}), journal or Journal()
    with DEVICES[device](**(options or {})) as there:
        able = [file for file in files if file.suffix.lower() in there.formats]
        if not able:
            names = ", ".join(file.name for file in files)
            raise UserError(f"{label} runs {' and '.join(there.formats)} files; got {names}.")
        rounds, last = take_rounds(
            there,
            [*able, able[0]],
            num_threads=num_threads,
            num_warmup=num_warmup,
            num_runs=num_runs,
            journal=journal,
            progress=progress,
        )
    turns = [list(of_file) for of_file in zip(*rounds, strict=True)]
    shared: dict[str, Any] = {
        "device": label,
        "num_threads": num_threads,
        "num_runs": num_runs,
        "noise_floor": _noise_floor(turns[0], turns[-1]),
    }
    rows = [shared | _row(*told, num_runs) for told in zip(turns[:-1], last[:-1], strict=True)]
    fastest = min(rows, key=lambda row: row["p50_ms"])
    return {
        file: {**row, "against_fastest": difference(row, fastest)}
        for file, row in zip(able, rows, strict=True)
    }


def _row(turns: list[Turn], last: dict[str, Any], num_runs: int) -> dict[str, Any]:
    ready = turns[0].ready
    times_ms = [time for turn in turns for time in turn.times_ms]
    percentiles: list[float | None] = [float(p) for p in np.percentile(times_ms, [50, 90, 99])]
    if len(times_ms) < num_runs:
        percentiles[1:] = None, None  # a device that tells means says nothing of the slow ones
    p50, p90, p99 = percentiles
    after = {k: v for k, v in last.get("state", {}).items() if k in CHANGING}
    return {
        "runtime": f"{ready['runtime']} {ready['runtime_version']}".strip(),
        "delegate": ready.get("delegate"),
        "batch": ready["batch"],
        "num_warmup": max(turn.num_warmup for turn in turns),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "mean_ms": float(np.mean(times_ms)),
        "load_ms": float(np.median([turn.ready["load_ms"] for turn in turns])),
        "first_ms": float(np.median([turn.ready["first_ms"] for turn in turns])),
        "peak_rss_mib": last["peak_rss_mib"],
        "state": {**ready.get("state", {}), "after": after},
        "round_min_ms": [turn.min_ms for turn in turns],
        "times_ms": times_ms,
    }


def _noise_floor(one: list[Turn], other: list[Turn]) -> float | None:
    """How far apart a file and itself may lie by these rounds, as a share; None if they are few."""
    logs = np.log([turn.min_ms for turn in one]) - np.log([turn.min_ms for turn in other])
    interval = median_interval(logs)
    return None if interval is None else float(np.expm1(max(map(abs, interval))))


def difference(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """How many times as long as the other a file takes, from latency rows measured together.

    The ratio is the median over rounds, with its 98 % interval, of each round's shortest times:
    what disturbs a run only ever lengthens it, so on a busy machine they waver least (Chen and
    Revels 2016, Robust benchmarking in noisy environments, arXiv:1608.04295). It is a difference
    only if the interval leaves out 1 and the ratio lies beyond the noise floor.

    Returns:
        `ratio`, `low`, `high` and `verdict`: "faster", "slower" or "no difference"; None where
        there are too few rounds to tell, or the rows were not measured together.
    """
    ours, theirs = row.get("round_min_ms", []), other.get("round_min_ms", [])
    floor = row.get("noise_floor")
    if floor is None or floor != other.get("noise_floor") or len(ours) != len(theirs):
        return None
    logs = np.log(ours) - np.log(theirs)
    interval, middle = median_interval(logs), float(np.median(logs))
    if interval is None:
        return None
    low, high = interval
    told = (low > 0 or high < 0) and abs(middle) > np.log1p(floor)
    verdict = ("slower" if middle > 0 else "faster") if told else "no difference"
    low, ratio, high = (float(np.exp(value)) for value in (low, middle, high))
    return {"ratio": ratio, "low": low, "high": high, "verdict": verdict}
