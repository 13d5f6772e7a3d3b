"""What tests share beside fixtures: small photos, and the programs run as a user would."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.timing.latency import Latency

ROOT = Path(__file__).resolve().parents[1]
AXE = "axe-core@4.14.1"
"""The package whose rules for accessibility pages are checked by."""


def save_photo(path: Path, *, seed: int, size: tuple[int, int] = (24, 20)) -> Path:
    """A small photo of smooth noise, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path)
    return path


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


_watchers: list[Callable[[str], None]] = []


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if _watchers and event == "open" and isinstance(arguments[0], str | os.PathLike):
        for watch in _watchers:
            watch(os.fspath(arguments[0]))


sys.addaudithook(_note_opened)  # for as long as the process lives


@contextmanager
def opened_files(*, fail_at: Path | None = None) -> Iterator[list[str]]:
    """The paths that Python opens in the block, as the interpreter itself reports them.

    Args:
        fail_at: opening this file raises Killed.
    """
    opened: list[str] = []

    def watch(path: str) -> None:
        opened.append(path)
        if fail_at is not None and Path(path) == fail_at:
            raise Killed

    _watchers.append(watch)
    try:
        yield opened
    finally:
        _watchers.remove(watch)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def command(*words: object, cwd: Path | None = None) -> Outcome:
    """Run one of the three programs in a process of its own."""
    program, *arguments = map(str, words)
    code = f"from cli import {program}; {program}()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env=environment,
    )
    return Outcome(result.returncode, result.stdout, result.stderr)


def latency_of(p50_ms: float, **fields: Any) -> Latency:
    """A latency of which only the given fields matter."""
    usual: dict[str, Any] = {
        "device": "local", "runtime": "litert", "num_threads": 1, "num_runs": 200,
        "num_warmup": 10, "batch": 1, "p90_ms": p50_ms, "p99_ms": p50_ms, "mean_ms": p50_ms,
        "load_ms": 1.0, "peak_rss_mib": 50.0,
    }  # fmt: skip
    return Latency(p50_ms=p50_ms, **{**usual, **fields})


def timed_by_size(files: list[Path], **_: object) -> dict[Path, Latency]:
    """Latencies as if every file took a millisecond for each kilobyte, always."""
    times_ms = {file: file.stat().st_size / 1000 for file in files}
    return {
        file: latency_of(time_ms, round_min_ms=(time_ms,) * 10, noise_floor=0.0)
        for file, time_ms in times_ms.items()
    }
