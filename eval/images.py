"""The evaluation view: a photo file -> the array that a model sees when it is measured.

Pillow and numpy only, so that the pixels are the same on every machine and device.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from eval.photo_files import PhotoSource, UnreadablePhoto, decoded_photo

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
"""Pillow's filters; all but `nearest` average over the pixels that they leave out."""


class Fitting(Protocol):
    """How a photo is fitted to the input of a model. An `InputContract` says it."""

    @property
    def fit(self) -> str: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def channels(self) -> str: ...


def evaluation_view(
    photo: np.ndarray, image_size: tuple[int, int], fitting: Fitting | None = None
) -> np.ndarray:
    """A photo as a model sees it when it is measured.

    Args:
        photo: uint8, (height, width, 3).
        image_size: height and width of the model's input, in pixels.
        fitting: None for the largest centred part with the shape of the input, resized to it
            (bilinear, antialiased), in colours.

    Returns:
        uint8, (*image_size, 3), or (*image_size, 1) of a grey model.
    """
    return _view(Image.fromarray(photo), image_size, fitting)


def evaluation_image(
    path: PhotoSource, image_size: tuple[int, int], fitting: Fitting | None = None
) -> np.ndarray:
    """`evaluation_view` of a file, or of one in memory.

    Raises:
        UnreadablePhoto: the file is damaged or not a photo; the message begins with its path.
    """
    try:
        with decoded_photo(path) as photo:
            return _view(photo.image, image_size, fitting)
    except UnreadablePhoto as error:
        name = "" if isinstance(path, BytesIO) else f"{path}: "
        raise UnreadablePhoto(f"{name}{error}") from None


def _view(photo: Image.Image, image_size: tuple[int, int], fitting: Fitting | None) -> np.ndarray:
    fit, interpolation = (fitting.fit, fitting.interpolation) if fitting else ("crop", "bilinear")
    resampling = RESAMPLING[interpolation]
    if fitting and fitting.channels == "grey":
        photo = photo.convert("L")
    height, width = image_size
    if fit == "stretch":
        view = photo.resize((width, height), resampling)
    elif fit == "pad":
        view = _padded(photo, width, height, resampling)
    else:
        view = _cropped(photo, width, height, resampling)
    return np.asarray(view).reshape(height, width, -1)


def _cropped(
    photo: Image.Image, width: int, height: int, resampling: Image.Resampling
) -> Image.Image:
    """The largest centred part with the shape of the input, resized to it."""
    scale = min(photo.height / height, photo.width / width)
    crop_height, crop_width = scale * height, scale * width
    top, left = (photo.height - crop_height) / 2, (photo.width - crop_width) / 2
    # Rounding must not put the box outside the photo.
    box = (
        max(left, 0.0),
        max(top, 0.0),
        min(left + crop_width, photo.width),
        min(top + crop_height, photo.height),
    )
    return photo.resize((width, height), resampling, box=box)


def _padded(
    photo: Image.Image, width: int, height: int, resampling: Image.Resampling
) -> Image.Image:
    """The whole photo, resized to fit inside, between black borders of equal width."""
    scale = min(height / photo.height, width / photo.width)
    size = max(round(scale * photo.width), 1), max(round(scale * photo.height), 1)
    padded = Image.new(photo.mode, (width, height))
    padded.paste(photo.resize(size, resampling), ((width - size[0]) // 2, (height - size[1]) // 2))
    return padded


def evaluation_batches(
    paths: Sequence[Path],
    image_size: tuple[int, int],
    batch_size: int = 32,
    read: Callable[[Path, tuple[int, int]], np.ndarray] = evaluation_image,
) -> Iterator[np.ndarray]:
    """`evaluation_image` of many files, in order. A few threads decode ahead.

    Args:
        read: takes the place of `evaluation_image`.

    Yields:
        uint8, (batch, *image_size, 3); the last batch may be smaller.
    """
    remaining = iter(paths)
    with ThreadPoolExecutor() as pool:
        ahead: deque[Future[np.ndarray]] = deque()

        def fill(count: int) -> None:
            for path in islice(remaining, count):
                ahead.append(pool.submit(read, path, image_size))

        fill(2 * batch_size)
        while ahead:
            batch = [ahead.popleft().result() for _ in range(min(batch_size, len(ahead)))]
            fill(batch_size)
            yield np.stack(batch)
