"""Small photos as files, bytes and arrays, and a run's data step on a source."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.resume import Facts, take_step
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.manifest import Photo, _photos
from distill.data.scan import data_step
from eval.photo_files import decode_photo

LABELS = ("cat", "dog")


def pixels_of(seed: int) -> np.ndarray:
    """uint8, (12, 16, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def png_of(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_of(seed)).save(file, "PNG")
    return file.getvalue()


def data_of(run: Path, **settings: Any) -> tuple[Facts, list[Photo]]:
    """The facts and the photos of the data step."""
    facts = take_step(data_step(RunDir(run), DataConfig(**settings)))
    return facts, list(_photos(RunDir(run)))


def skipped_of(run: Path) -> dict[str, str]:
    """The reasons of skipped files, by path."""
    with open(run / "data" / "skipped.csv", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def stored_pixels(run: Path, photo: Photo, facts: Facts) -> np.ndarray:
    return decode_photo(run / "data" / facts["root"] / photo.path)


def num_of(photos: list[Photo]) -> Counter[str]:
    return Counter(photo.label for photo in photos)
