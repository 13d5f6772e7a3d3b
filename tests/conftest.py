"""Tiny photos and runs that tests share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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
