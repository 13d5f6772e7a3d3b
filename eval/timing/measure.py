"""Files are timed together on one device: in rounds, each with new processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.artifacts import ending
from configs.errors import UserError
from eval.devices.probe import Finished
from eval.devices.registry import DEVICES, Options, device_label
from eval.timing.differences import difference, noise_floor
from eval.timing.latency import Latency
from eval.timing.rounds import Journal, Turn, take_rounds


def measure(
    files: list[Path],
    *,
    device: str = "local",
    options: Options | None = None,
    num_threads: int = 1,
    num_warmup: int = 10,
    num_runs: int = 200,
    journal: Journal | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Path, Latency]:
    """Time files on one device.

    The files take turns in rounds, and each round starts with another file. So whatever drifts on
    the machine (heat, frequency, neighbours) affects all files alike. Every round loads every file
    in a new process: where its memory lies is drawn once for a process, and more runs in the same
    process do not average that out (Kalibera and Jones 2013, Rigorous Benchmarking in Reasonable
    Time). The first file is timed twice; the difference is the noise floor.

    Args:
        num_runs: timed executions of each file, ten per round. More of them lower the noise floor.
        num_warmup: least number of executions before those of a round; 0 for none.
        journal: keeps finished rounds, for the call that continues where this one was cut off.
        progress: called with the number of finished timed executions, of (files + 1) * num_runs.

    Returns:
        The latency of each file that the device executes.

    Raises:
        StepFailed: a file cannot be executed there, or the device went away for good.
        UserError: none of the files is for this kind of device.
    """
    files = list(dict.fromkeys(files))
    if not files:
        return {}
    label, journal = device_label(device, options or {}), journal or Journal()
    with DEVICES[device](**(options or {})) as machine:
        able = [file for file in files if ending(file) in machine.formats]
        if not able:
            names = ", ".join(file.name for file in files)
            raise UserError(
                f"{label} executes {' and '.join(machine.formats)} files; got {names}. Name a file "
                "of these, or another device."
            )
        rounds, last = take_rounds(
            machine,
            [*able, able[0]],
            num_threads=num_threads,
            num_warmup=num_warmup,
            num_runs=num_runs,
            journal=journal,
            progress=progress,
        )
    rows = _latencies(rounds, last, device=label, num_threads=num_threads, num_runs=num_runs)
    return dict(zip(able, rows, strict=True))


def _latencies(
    rounds: list[list[Turn]],
    last: list[Finished],
    *,
    device: str,
    num_threads: int,
    num_runs: int,
) -> list[Latency]:
    """The latency of every file but the last, which is the first file again."""
    turns = [list(of_file) for of_file in zip(*rounds, strict=True)]
    rows = [
        _latency(turns_of_file, finished, device=device, num_threads=num_threads, num_runs=num_runs)
        for turns_of_file, finished in zip(turns[:-1], last[:-1], strict=True)
    ]
    floor = noise_floor(_min_ms(turns[0]), _min_ms(turns[-1]))
    rows = [replace(row, noise_floor=floor) for row in rows]
    fastest = min(rows, key=lambda row: row.p50_ms)
    return [replace(row, against_fastest=difference(row, fastest)) for row in rows]


def _latency(
    turns: list[Turn],
    finished: Finished,
    *,
    device: str,
    num_threads: int,
    num_runs: int,
) -> Latency:
    """The latency of one file, from its turns and the last message of its session."""
    ready = turns[0].ready
    times_ms = [time for turn in turns for time in turn.times_ms]
    p50, p90, p99 = (float(p) for p in np.percentile(times_ms, [50, 90, 99]))
    # A device that reports means says nothing about the slow executions.
    reports_means = len(times_ms) < num_runs
    return Latency(
        device=device,
        num_threads=ready.num_threads or num_threads,
        num_runs=num_runs,
        num_warmup=max(turn.num_warmup for turn in turns),
        runtime=ready.runtime_name,
        delegate=ready.delegate,
        batch=ready.batch,
        p50_ms=p50,
        p90_ms=None if reports_means else p90,
        p99_ms=None if reports_means else p99,
        mean_ms=float(np.mean(times_ms)),
        load_ms=float(np.median([turn.ready.load_ms for turn in turns])),
        first_ms=float(np.median([turn.ready.first_ms for turn in turns])),
        peak_rss_mib=finished.peak_rss_mib,
        state=replace(ready.state, after=finished.state.readings()),
        round_min_ms=_min_ms(turns),
        times_ms=tuple(times_ms),
    )


def _min_ms(turns: list[Turn]) -> tuple[float, ...]:
    return tuple(turn.min_ms for turn in turns)
