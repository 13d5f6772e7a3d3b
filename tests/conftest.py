"""Tiny photos and runs that tests share."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def save_photo(path: Path, *, seed: int, size: tuple[int, int] = (24, 20)) -> Path:
    """A small photo of smooth noise, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path)
    return path


@pytest.fixture(scope="session")
def flowers() -> Path:
    """The real flower photos, where they lie beside the project."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "flowers"
    if not path.exists():
        pytest.skip("the flower photos are not here")
    return path


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Two classes of thirty photos each."""
    root = tmp_path / "photos"
    for label, first in (("cat", 0), ("dog", 1000)):
        for number in range(30):
            save_photo(root / label / f"{number}.png", seed=first + number)
    return root


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def command(*words: object, cwd: Path | None = None) -> Outcome:
    """Run one of the three programs in a process of its own."""
    program, *arguments = map(str, words)
    code = f"from cli.main import {program}; {program}()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env=environment,
    )
    return Outcome(result.returncode, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of configs/smoke.yaml, from teacher to report."""
    path = tmp_path_factory.mktemp("runs") / "smoke"
    outcome = command("distill", "run", "smoke", "--run", path)
    assert outcome.code == 0, outcome.err
    return path


@pytest.fixture
def program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Outcome]:
    """Run one of the programs in this process, in an empty folder: TensorFlow loads once."""

    def run(*words: object) -> Outcome:
        from cli import main

        name, *arguments = map(str, words)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            getattr(main, name)()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run
