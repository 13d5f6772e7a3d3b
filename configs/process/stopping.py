"""Stopping: a process that is asked to end saves its state first.

SIGTERM, Ctrl-C and a terminal that closes ask for it. Then `Stopped` is raised in the main thread,
so files and devices are tidied up as after any error. A training asks for time, to save a
checkpoint behind its present update.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_STOP = 8.0
"""A process that takes longer is killed. Docker, the most impatient, waits for ten seconds."""

SECONDS_OF_ONE_ASKING = 1.0
"""Signals within this time ask once: a terminal that closes and GNU `timeout` send several."""


class Stopped(BaseException):
    """The process was asked to end by `signal`.

    It is no `Exception`, so nothing takes it for a failed step and goes on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number


@dataclass
class _Request:
    """What this process was asked for.

    Attributes:
        number: of the signal; None before there is one.
        time: when the first signal arrived, in seconds of `time.monotonic`.
        waits: whether a signal waits for the next `stop_if_requested`.
    """

    number: int | None = None
    time: float = 0.0
    waits: bool = False


_request = _Request()


@contextmanager
def stops_on_signals() -> Iterator[None]:
    """Inside the block, the first signal raises `Stopped` where the main thread is."""
    # A signal that is ignored stays ignored: `nohup` asks for that.
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number: handler for number, handler in before.items() if handler in usual}
    for number in ours:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        _request.number = None


def _on_signal(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _request.number is None:
        _request.number, _request.time = number, now
        if not _request.waits:
            raise Stopped(number)
    # Whoever presses Ctrl-C again does not want to wait. Other signals may be echoes of the first.
    elif number == signal.SIGINT and now - _request.time >= SECONDS_OF_ONE_ASKING:
        raise Stopped(number)


@contextmanager
def stop_waits() -> Iterator[None]:
    """Inside the block, a signal raises `Stopped` at the next `stop_if_requested` only."""
    _request.waits = True
    try:
        yield
    finally:
        _request.waits = False


def stop_is_requested() -> bool:
    """Whether the process was asked to end."""
    return _request.number is not None


def stop_if_requested() -> None:
    """Raise `Stopped` if the process was asked to end, and a library swallowed that."""
    if _request.number is not None:
        raise Stopped(_request.number)
