"""What is measured with one file alone: sustained load, a stream of queries, its operators."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eval.devices.probe import OperatorTime
from eval.devices.registry import Session
from eval.timing.rounds import warm_up

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
