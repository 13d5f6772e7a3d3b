"""Files take turns on a device, round by round; a round that is done is kept."""

import itertools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.artifacts import write_text
from configs.errors import StepFailed
from eval.devices.registry import Device, Session
from eval.devices.session import DeviceLost

log = logging.getLogger("potstill")

RUNS_PER_ROUND = 10
WARMUP_BLOCK = 5
MAX_WARMUP = 100
PATIENCE_SECONDS = 120.0
"""How long a device that went away is waited for."""


@dataclass(frozen=True)
class Turn:
    """What one file did in one round.

    Attributes:
        ready: what the probe said when it had loaded the file.
        num_warmup: executions before those that count.
    """

    ready: dict[str, Any]
    num_warmup: int
    times_ms: list[float]

    @property
    def min_ms(self) -> float:
        return min(self.times_ms)


class Journal:
    """Rounds on disk, for the call that continues where another was cut off.

    Args:
        path: a file in the step's workspace; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def rounds(self) -> list[list[Turn]]:
        """What is kept; a line that was cut off ends it."""
        if self._path is None:
            return []
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept, found = [], []
        for line in lines:
            try:
                found.append([Turn(**turn) for turn in json.loads(line)])
            except (ValueError, TypeError):
                break
            kept.append(line)
        write_text(self._path, "".join(f"{line}\n" for line in kept))
        return found

    def add(self, turns: list[Turn]) -> None:
        """Keep a round."""
        if self._path is not None:
            with self._path.open("a") as file:
                print(json.dumps([asdict(turn) for turn in turns]), file=file, flush=True)


def take_rounds(
    device: Device,
    files: list[Path],
    *,
    num_threads: int,
    num_warmup: int,
    num_runs: int,
    journal: Journal,
    progress: Callable[[int], None] | None,
) -> tuple[list[list[Turn]], list[dict[str, Any]]]:
    """Turns of every file by round, and the last words of their probes.

    Each round starts with another file, and with new processes. A device that goes away is waited
    for; the round that it broke is taken again.

    Args:
        files: of which one may be there twice.

    Raises:
        StepFailed: a file cannot be run there, or the device did not come back, or it was lost
            twice in the same round.
    """
    shares, rounds = _shares(num_runs), journal.rounds()
    lost_after = -1
    while True:
        sessions: list[Session] = []
        try:
            sessions = _opened(device, files, num_threads)
            fresh = True
            for number in range(len(rounds), len(shares)):
                turns = _round(sessions, number, num_warmup, shares[number], fresh=fresh)
                fresh = False
                rounds.append(turns)
                journal.add(turns)
                if progress:
                    progress(sum(shares[: number + 1]) * len(files))
            return rounds, [session.close() for session in sessions]
        except BaseException as error:
            for session in sessions:
                session.kill()
            if not isinstance(error, DeviceLost) or lost_after == len(rounds):
                raise  # twice at the same place: it is not chance
            lost_after = len(rounds)
            _wait_for(device, f"{error}\n{len(rounds)} of {len(shares)} rounds are done.")


def _opened(device: Device, files: list[Path], num_threads: int) -> list[Session]:
    sessions: list[Session] = []
    try:
        for file in files:
            sessions.append(device.open(file, num_threads=num_threads))
    except BaseException:
        for session in sessions:
            session.kill()
        raise
    return sessions


def _round(
    sessions: list[Session], number: int, num_warmup: int, count: int, *, fresh: bool
) -> list[Turn]:
    start = number % len(sessions)
    turns: dict[int, Turn] = {}
    for index in [*range(start, len(sessions)), *range(start)]:
        session = sessions[index]
        if not fresh:
            session.reopen()
        warmed = warm_up(session, num_warmup)
        turns[index] = Turn(session.ready, warmed, session.run(count))
    return [turns[index] for index in range(len(sessions))]


def warm_up(session: Session, num_warmup: int) -> int:
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


def _wait_for(device: Device, what: str) -> None:
    log.warning("%s Waiting for the device, %.0f s at most.", what, PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not device.is_back():
        if time.monotonic() > deadline:
            raise StepFailed(
                f"{what} It did not come back within {PATIENCE_SECONDS:.0f} s. In a run directory "
                "the same command goes on from there."
            )
        time.sleep(min(5.0, PATIENCE_SECONDS / 10))


def _shares(total: int) -> list[int]:
    """`total` split into nearly equal shares, one a round."""
    parts = max(1, total // RUNS_PER_ROUND)
    edges = [total * i // parts for i in range(parts + 1)]
    return [b - a for a, b in itertools.pairwise(edges)]
