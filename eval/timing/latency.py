"""The latency of a file on a device, and how two latencies differ: the records that are stored."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from eval.devices.probe import Delegate, MachineState


@dataclass(frozen=True)
class SpeedDifference:
    """How many times as long as another file a file takes.

    Attributes:
        ratio: the median over rounds; 1.1 means 10 % longer.
        low: lower end of its 98 % interval.
        high: upper end.
    """

    ratio: float
    low: float
    high: float
    verdict: Literal["faster", "slower", "no difference"]


@dataclass(frozen=True)
class Latency:
    """How long one file takes on one device: an entry of `latency` in report.json.

    The raw times stay out of report.json. They are stored in `results/latency-<device>.json`.

    Attributes:
        device: the label of the device (`eval.devices.registry.device_label`).
        num_runs: timed executions.
        noise_floor: how far apart a file and itself may lie by chance, as a share; None where
            there were too few rounds to say.
        runtime: its name and version.
        delegate: how much of the file a delegate of LiteRT executes; None for other runtimes.
        num_warmup: most executions before the timed ones of a round.
        p90_ms: None where the device reports means only, and so for `p99_ms`.
        load_ms: median time to load the file, over the rounds.
        first_ms: median time of the first execution after loading.
        state: the state of the machine before the first round, and after the last.
        round_min_ms: the shortest time of each round.
        against_fastest: the difference from the fastest file that was timed with it.
        times_ms: every timed execution, in order.
    """

    device: str
    num_threads: int
    num_runs: int
    num_warmup: int
    runtime: str
    batch: int
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    load_ms: float
    peak_rss_mib: float | None
    first_ms: float | None = None
    delegate: Delegate | None = None
    noise_floor: float | None = None
    state: MachineState = MachineState()  # noqa: RUF009 - frozen
    round_min_ms: tuple[float, ...] = ()
    against_fastest: SpeedDifference | None = None
    times_ms: Annotated[tuple[float, ...], Field(exclude=True)] = ()


def milliseconds(value: float) -> str:
    """A latency for people: two decimals, or below 0.1 ms two significant digits."""
    if value >= 0.1 or value == 0:
        return f"{value:.2f}"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.1e}"
