"""The test photos of a bundle: a few photos that the model has not learned, with its answers."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distill.data.manifest import Examples
from eval.photo_files import decode_photo

NUM_PHOTOS = 5

SHORT_SIDE = 512
"""Photos are shrunk to this many pixels, or to twice the input of the model: for the size of the
ZIP. The answers are those about the shrunk photos."""

PNG_LEVEL = 9


@dataclass(frozen=True)
class TestPhoto:
    """A photo as the bundle carries it.

    Attributes:
        png: the bytes of the file. PNG, because every decoder gives the same pixels. Nothing but
            pixels is in it: no place, no date, no camera.
        label: the true class; None for a photo without a label.
    """

    name: str
    png: bytes
    label: str | None


def draw_photos(test: Examples, *, image_size: list[int]) -> list[TestPhoto]:
    """Up to NUM_PHOTOS test photos of different classes, always the same."""
    short_side = max(SHORT_SIDE, 2 * max(image_size))
    return [
        TestPhoto(
            name=f"photo-{number}.png",
            png=_png(test.paths[row], short_side),
            label=test.classes[test.labels[row]] if test.labels[row] >= 0 else None,
        )
        for number, row in enumerate(drawn_rows(test), 1)
    ]


def drawn_rows(test: Examples, count: int = NUM_PHOTOS) -> list[int]:
    """Rows of the photos to take: of classes spread over all of them, one photo of each in turn.

    Ids are digests, so the first photos of a class by their ids are a random draw.
    """
    by_class = [np.flatnonzero(test.labels == label).tolist() for label in np.unique(test.labels)]
    queues = [sorted(rows, key=lambda row: test.ids[row]) for rows in by_class]
    spread = np.linspace(0, len(queues) - 1, min(count, len(queues))).round().astype(int)
    first = [queues[i] for i in spread]
    longest = max(map(len, first), default=0)
    in_turn = [rows[turn] for turn in range(longest) for rows in first if turn < len(rows)]
    return in_turn[:count]


def _png(path: Path, short_side: int) -> bytes:
    content = io.BytesIO()
    pixels = decode_photo(path, max_short_side=short_side)
    Image.fromarray(pixels).save(content, "PNG", compress_level=PNG_LEVEL)
    return content.getvalue()
