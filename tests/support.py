"""What tests share beside fixtures: small photos, and the programs run as a user would."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def save_photo(path: Path, *, seed: int, size: tuple[int, int] = (24, 20)) -> Path:
    """A small photo of smooth noise, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path)
    return path


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


def timed_by_size(files: list[Path], **_: object) -> dict[Path, dict]:
    """Latency rows as if every file took a millisecond for a kilobyte, always."""
    how = dict.fromkeys(("device", "runtime", "num_threads", "num_warmup", "num_runs"), 1)
    return {
        file: {
            **how,
            "p50_ms": file.stat().st_size / 1000,
            "round_min_ms": [file.stat().st_size / 1000] * 10,
            "noise_floor": 0.0,
        }
        for file in files
    }
