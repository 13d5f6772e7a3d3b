"""Rounds: files take turns on a device, and finished rounds are stored."""

import itertools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.artifacts import errors_name, write_text
from configs.errors import StepFailed, UserError
from configs.records import from_json, to_json
from eval.devices.probe import Finished, Ready
from eval.devices.registry import Device, Session
from eval.devices.session import DeviceLost

log = logging.getLogger("potstill")

RUNS_PER_ROUND = 10
WARMUP_BLOCK = 5
MAX_WARMUP = 100
PATIENCE_SECONDS = 120.0
"""How long to wait for a device that went away."""


@dataclass(frozen=True)
class Turn:
    """What one file did in one round.

    Attributes:
        ready: what was reported when the file was loaded.
        num_warmup: executions before the timed ones.
    """

    ready: Ready
    num_warmup: int
    times_ms: tuple[float, ...]

    @property
    def min_ms(self) -> float:
        return min(self.times_ms)


class Journal:
    """Finished rounds on disk, for a call that continues where another was cut off.

    Args:
        path: a file in the workspace of the step; without one, nothing is stored.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def rounds(self) -> list[list[Turn]]:
        """The stored rounds, up to the first line that is incomplete; the rest is removed."""
        if self._path is None:
            return []
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        rounds: list[list[Turn]] = []
        for line in lines:
            try:
                rounds.append([from_json(Turn, turn) for turn in json.loads(line)])
            except (ValueError, UserError):
                break
        write_text(self._path, "".join(f"{line}\n" for line in lines[: len(rounds)]))
        return rounds

    def add(self, turns: list[Turn]) -> None:
        """Store a round."""
        if self._path is not None:
            with errors_name(self._path), self._path.open("a") as file:
                print(json.dumps(to_json(turns)), file=file, flush=True)


def take_rounds(
    device: Device,
    files: list[Path],
    *,
    num_threads: int,
    num_warmup: int,
    num_runs: int,
    journal: Journal,
    progress: Callable[[int], None] | None,
) -> tuple[list[list[Turn]], list[Finished]]:
    """The turns of every file in every round, and the last message of every probe.

    Each round starts with another file, and with new processes. If the device goes away, this
    waits for it and takes the broken round again.

    Args:
        files: in the order of the turns; a file may be listed twice.

    Raises:
        StepFailed: a file cannot be executed there, or the device did not come back, or it was
            lost twice in the same round.
    """
    counts, rounds = _runs_by_round(num_runs), journal.rounds()
    lost_after = -1
    while True:
        sessions: list[Session] = []
        try:
            sessions = _open_all(device, files, num_threads)
            fresh = True
            for number in range(len(rounds), len(counts)):
                turns = _take_round(sessions, number, num_warmup, counts[number], fresh=fresh)
                fresh = False
                rounds.append(turns)
                journal.add(turns)
                if progress:
                    progress(sum(counts[: number + 1]) * len(files))
            return rounds, [session.close() for session in sessions]
        except BaseException as error:
            for session in sessions:
                session.kill()
            if not isinstance(error, DeviceLost) or lost_after == len(rounds):
                raise  # twice in the same round is no chance
            lost_after = len(rounds)
            _wait_for(device, f"{error}\n{len(rounds)} of {len(counts)} rounds are done.")


def _open_all(device: Device, files: list[Path], num_threads: int) -> list[Session]:
    sessions: list[Session] = []
    try:
        for file in files:
            sessions.append(device.open(file, num_threads=num_threads))
    except BaseException:
        for session in sessions:
            session.kill()
        raise
    return sessions


def _take_round(
    sessions: list[Session], number: int, num_warmup: int, count: int, *, fresh: bool
) -> list[Turn]:
    """One turn of every session, in the order of the sessions.

    Args:
        number: of the round; it decides which session starts.
        fresh: the sessions were just opened.
    """
    start = number % len(sessions)
    turns: dict[int, Turn] = {}
    for index in [*range(start, len(sessions)), *range(start)]:
        session = sessions[index]
        if not fresh:
            session.reopen()
        num_warmed_up = warm_up(session, num_warmup)
        turns[index] = Turn(session.ready, num_warmed_up, tuple(session.run(count)))
    return [turns[index] for index in range(len(sessions))]


def warm_up(session: Session, num_warmup: int) -> int:
    """Execute the file until its times stop falling; returns the number of executions.

    It stops when the median of a block of WARMUP_BLOCK executions is at most 5 % below that of the
    block before, and after MAX_WARMUP executions in any case.

    Args:
        num_warmup: least number of executions; 0 for none at all.
    """
    if num_warmup == 0:
        return 0
    block_ms, count = session.run(num_warmup)[-WARMUP_BLOCK:], num_warmup
    while count < MAX_WARMUP:
        next_block_ms, count = session.run(WARMUP_BLOCK), count + WARMUP_BLOCK
        if np.median(next_block_ms) >= 0.95 * np.median(block_ms):
            break
        block_ms = next_block_ms
    return count


def _wait_for(device: Device, problem: str) -> None:
    log.warning("%s Waiting for the device for up to %.0f s.", problem, PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not device.is_back():
        if time.monotonic() > deadline:
            raise StepFailed(
                f"{problem} The device did not come back within {PATIENCE_SECONDS:.0f} s. Run the "
                "same command again: in a run directory it continues from there."
            )
        time.sleep(min(5.0, PATIENCE_SECONDS / 10))


def _runs_by_round(total: int) -> list[int]:
    """The number of timed executions in each round, about RUNS_PER_ROUND, `total` together."""
    parts = max(1, total // RUNS_PER_ROUND)
    edges = [total * i // parts for i in range(parts + 1)]
    return [b - a for a, b in itertools.pairwise(edges)]
