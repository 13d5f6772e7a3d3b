"""How long files take, and which differences between them are real."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eval.devices import DEVICES, ProbeSession
from eval.statistics import median_interval

RUNS_PER_ROUND = 10
WARMUP_BLOCK = 5
MAX_WARMUP = 100
CHANGING = ("mhz", "temperature_c", "load")
"""What of a machine's state moves while it works."""


Turn = dict[str, Any]
"""What a file told in a round: `ready` of its probe, `num_warmup` and `times_ms`."""


def measure(
    files: list[Path],
    *,
    device: str = "local",
    options: dict[str, Any] | None = None,
    num_threads: int = 1,
    num_warmup: int = 10,
    num_runs: int = 200,
    progress: Callable[[int], None] | None = None,
    rounds: list[list[Turn]] | None = None,
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
        progress: told how many timed executions are done, of (files + 1) * num_runs.
        rounds: those finished earlier, with the same arguments; every further one is added, so
            that they outlive a device that goes away.

    Returns:
        A latency row of report.json for each file, with the raw times as `times_ms`.

    Raises:
        StepFailed: a file cannot be run there.
    """
    files = list(dict.fromkeys(files))
    if not files:
        return {}
    rounds = [] if rounds is None else rounds
    sessions: list[ProbeSession] = []
    try:
        for file in [*files, files[0]]:
            sessions.append(DEVICES[device](file, num_threads=num_threads, **(options or {})))
        shares = _shares(num_runs)
        for number, count in list(enumerate(shares))[len(rounds) :]:
            rounds.append(_round(sessions, number, num_warmup, count))
            if progress:
                progress(len(sessions) * sum(shares[: number + 1]))
        last = [session.close() for session in sessions]
    except BaseException:
        for session in sessions:
            session.kill()
        raise
    turns = [list(column) for column in zip(*rounds, strict=True)]
    shared: dict[str, Any] = {
        "device": device,
        "num_threads": num_threads,
        "num_runs": num_runs,
        "noise_floor": _noise_floor(turns[0], turns[-1]),
    }
    rows = [shared | _row(*told) for told in zip(turns[:-1], last[:-1], strict=True)]
    fastest = min(rows, key=lambda row: row["p50_ms"])
    return {
        file: {**row, "against_fastest": difference(row, fastest)}
        for file, row in zip(files, rows, strict=True)
    }


def _round(sessions: list[ProbeSession], number: int, num_warmup: int, count: int) -> list[Turn]:
    """A turn of every session, in the order of the sessions; they start with another each time."""
    turns: dict[int, Turn] = {}
    for place in range(len(sessions)):
        index = (number + place) % len(sessions)
        session = sessions[index]
        session.reopen()
        turns[index] = {
            "ready": session.ready,
            "num_warmup": warm_up(session, num_warmup),
            "times_ms": session.run(count),
        }
    return [turns[index] for index in range(len(sessions))]


def warm_up(session: ProbeSession, num_warmup: int) -> int:
    """Run until times fall no more, `num_warmup` times at least; returns how often it ran.

    They have settled when the median of some runs is no more than 5 % below that of the runs
    before them. After MAX_WARMUP runs it is left at that.
    """
    if num_warmup == 0:
        return 0
    before, count = session.run(num_warmup)[-WARMUP_BLOCK:], num_warmup
    while count < MAX_WARMUP:
        now, count = session.run(WARMUP_BLOCK), count + WARMUP_BLOCK
        if np.median(now) >= 0.95 * np.median(before):
            break
        before = now
    return count


def _shares(total: int) -> list[int]:
    """`total` split into nearly equal shares, one a round."""
    parts = max(1, total // RUNS_PER_ROUND)
    edges = [total * i // parts for i in range(parts + 1)]
    return [b - a for a, b in itertools.pairwise(edges)]


def _row(turns: list[Turn], last: dict[str, Any]) -> dict[str, Any]:
    ready = turns[0]["ready"]
    times_ms = [time for turn in turns for time in turn["times_ms"]]
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    after = {k: v for k, v in last.get("state", {}).items() if k in CHANGING}
    return {
        "runtime": f"{ready['runtime']} {ready['runtime_version']}".strip(),
        "delegate": ready.get("delegate"),
        "batch": ready["batch"],
        "num_warmup": max(turn["num_warmup"] for turn in turns),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "mean_ms": float(np.mean(times_ms)),
        "load_ms": float(np.median([turn["ready"]["load_ms"] for turn in turns])),
        "first_ms": float(np.median([turn["ready"]["first_ms"] for turn in turns])),
        "peak_rss_mib": last["peak_rss_mib"],
        "state": {**ready.get("state", {}), "after": after},
        "round_min_ms": _shortest(turns),
        "times_ms": times_ms,
    }


def _shortest(turns: list[Turn]) -> list[float]:
    return [min(turn["times_ms"]) for turn in turns]


def _noise_floor(one: list[Turn], other: list[Turn]) -> float | None:
    """How far apart a file and itself may lie by these rounds, as a share; None if they are few."""
    interval = median_interval(np.log(_shortest(one)) - np.log(_shortest(other)))
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
