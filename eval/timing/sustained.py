"""Measurements of one file at a time: sustained load, a stream of queries, its operators."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.artifacts import ending, file_sha256
from configs.errors import UserError
from configs.progress import track
from configs.records import to_json
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from eval.devices.probe import MachineState, OperatorTime
from eval.devices.registry import DEVICES, Device, Options, Session, device_label
from eval.timing.results import device_inputs, file_part
from eval.timing.rounds import warm_up

log = logging.getLogger("potstill")

NUM_INTERVALS = 20
MIN_QUERIES = 1024
MIN_SECONDS = 60.0


@dataclass(frozen=True)
class Interval:
    """A part of the time under load; None where the machine does not say.

    Attributes:
        minute: when it ended, from the start of the load.
        mhz: at its end, as `temperature_c` and `load`.
    """

    minute: float
    p50_ms: float
    p90_ms: float
    mhz: float | None
    temperature_c: float | None
    load: float | None


@dataclass(frozen=True)
class ThermalCurve:
    """Times of a file under load without a pause, in NUM_INTERVALS equal parts of the time."""

    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Stream:
    """Times of queries that follow each other."""

    num_queries: int
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    times_ms: tuple[float, ...]


@dataclass(frozen=True)
class Profile:
    """The time in each type of operator, the longest first."""

    operators: tuple[OperatorTime, ...]


Result = ThermalCurve | Stream | Profile
Task = Callable[[Session], Result]
"""What is measured with a file that is loaded."""


@dataclass(frozen=True)
class Measurement:
    """The result of a task with one file, and how it was measured."""

    device: str
    runtime: str
    num_threads: int
    state: MachineState
    result: Result

    def to_json(self) -> dict[str, Any]:
        """The keys of the result beside those of the measurement."""
        row: dict[str, Any] = to_json(self)
        return {**row, **row.pop("result")}


def thermal_curve(session: Session, *, seconds: float) -> ThermalCurve:
    """Execute a file without a pause, from a cold start."""
    intervals: list[Interval] = []
    elapsed_ms = 0.0
    for _ in range(NUM_INTERVALS):
        times_ms = _run_for(session, seconds / NUM_INTERVALS)
        elapsed_ms += sum(times_ms)
        state = session.state()
        p50, p90 = np.percentile(times_ms, [50, 90])
        intervals.append(
            Interval(
                minute=elapsed_ms / 60_000,
                p50_ms=float(p50),
                p90_ms=float(p90),
                mhz=state.mhz,
                temperature_c=state.temperature_c,
                load=state.load,
            )
        )
    return ThermalCurve(tuple(intervals))


def single_stream(
    session: Session, *, num_queries: int = MIN_QUERIES, seconds: float = MIN_SECONDS
) -> Stream:
    """Time queries that follow each other, until both minima are reached.

    This is the single-stream scenario of the MLPerf Inference rules, version 0.7, section 3 (Reddi
    et al. 2020, arXiv:1911.02549). Later versions require 600 seconds and may stop early. It is
    not a result by MLPerf, because it does not use their load generator.
    """
    warm_up(session, 10)
    times_ms = _run_for(session, seconds, num_queries)
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    return Stream(
        num_queries=len(times_ms),
        seconds=sum(times_ms) / 1000,
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        times_ms=tuple(times_ms),
    )


def operator_profile(session: Session) -> Profile:
    """The time in each type of operator, over 50 executions.

    Raises:
        StepFailed: the runtime does not report it; LiteRT does not.
    """
    warm_up(session, 10)
    return Profile(tuple(session.profile(50)))


def _run_for(session: Session, seconds: float, at_least: int = 1) -> list[float]:
    """Milliseconds of executions that together take `seconds`, and are `at_least` so many."""
    times_ms = session.run(1)
    while (left_ms := 1000 * seconds - sum(times_ms)) > 0 or len(times_ms) < at_least:
        typical_ms = float(np.median(times_ms[-50:]))
        # A request lasts up to a second: it ends near the limit, and the time to send it is small.
        num_left = max(left_ms / typical_ms, at_least - len(times_ms))
        times_ms += session.run(max(1, int(min(num_left, 1000 / typical_ms))))
    return times_ms


def sustain(
    files: list[Path],
    task: Task,
    *,
    name: str,
    device: str = "local",
    options: Options | None = None,
    num_threads: int = 1,
) -> dict[str, Measurement]:
    """Do a task with one file after the other, each loaded alone.

    Args:
        name: what progress calls the task.

    Returns:
        By the name of the file, or by its path where two files have the same name.

    Raises:
        StepFailed: a file cannot be executed there.
        UserError: the device executes none of the files, or does not time single executions.
    """
    label = device_label(device, options or {})
    measurements: dict[str, Measurement] = {}
    with (
        DEVICES[device](**(options or {})) as machine,
        track(f"{name} on {label}", len(files)) as advance,
    ):
        if machine.reports_means:
            raise UserError(
                f"{label} reports means of many executions, and this needs the time of each. Name "
                "another device with --device."
            )
        able = [file for file in files if ending(file) in machine.formats]
        has_unique_names = len({file.name for file in able}) == len(able)
        for number, file in enumerate(able, 1):
            key = file.name if has_unique_names else str(file)
            measurements[key] = _measure_alone(machine, label, file, task, num_threads)
            advance(number)
    return measurements


def _measure_alone(
    machine: Device, label: str, file: Path, task: Task, num_threads: int
) -> Measurement:
    session = machine.open(file, num_threads=num_threads)
    try:
        result = task(session)
        ready = session.ready
        session.close()
    except BaseException:
        session.kill()
        raise
    return Measurement(
        device=label,
        runtime=ready.runtime_name,
        num_threads=num_threads,
        state=ready.state,
        result=result,
    )


def sustain_step(
    run: RunDir,
    files: list[Path],
    task: Task,
    *,
    name: str,
    settings: dict[str, Any],
    device: str,
    options: Options,
    num_threads: int,
) -> Step:
    """The same for files of a run, into results/<name>-<device>.json, the raw times included.

    Args:
        settings: the settings of the task, as JSON values.
    """
    inputs = {
        "files": {file.name: file_sha256(file) for file in files},
        "device": device_inputs(device, options),
        "num_threads": num_threads,
        "settings": settings,
    }

    def build(workspace: Workspace) -> Built:
        measurements = sustain(
            files, task, name=name, device=device, options=options, num_threads=num_threads
        )
        return [], {"files": {key: measured.to_json() for key, measured in measurements.items()}}

    label = device_label(device, options)
    path = run.path / "results" / f"{name}-{file_part(label)}.json"
    return Step(f"{name} on {label}", path, inputs, build)


@dataclass(frozen=True)
class Mode:
    """One of the measurements that take one file at a time.

    Attributes:
        name: of the option that asks for it.
        settings: what the result depends on, as JSON values.
        formats: of the files that it can measure.
    """

    name: str
    task: Task
    settings: dict[str, Any]
    formats: tuple[str, ...] = (".tflite", ".onnx")

    def able(self, files: list[Path]) -> list[Path]:
        """The files that can be measured; the others are named in the log.

        Raises:
            UserError: there are none.
        """
        able = [file for file in files if ending(file) in self.formats]
        others = ", ".join(file.name for file in files if file not in able)
        if not able:
            raise UserError(f"--{self.name} is for {', '.join(self.formats)} files; got {others}.")
        if others:
            log.info("%s are left out: --%s cannot measure them", others, self.name)
        return able


def thermal_mode(minutes: float) -> Mode:
    """Every file under load for so many minutes.

    Raises:
        UserError: the minutes are not above 0.
    """
    if not minutes > 0:
        raise UserError(f"--thermal {minutes:g}: expected minutes above 0, for example 10.")
    seconds = 60 * minutes
    return Mode("thermal", partial(thermal_curve, seconds=seconds), {"seconds": seconds})


SINGLE_STREAM = Mode(
    "single-stream", single_stream, {"num_queries": MIN_QUERIES, "seconds": MIN_SECONDS}
)
PROFILE = Mode("profile", operator_profile, {}, (".onnx",))
