"""The evaluation view: a photo file -> the array that a model sees when it is measured.

Pillow and numpy only, so that the pixels are the same on every machine and device.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from eval.photo_files import UnreadablePhoto, decoded_photo


def evaluation_view(photo: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The largest centred part with the input's shape, resized to it (bilinear, antialiased).

    Args:
        photo: uint8, (height, width, 3).
        image_size: height and width of the model's input, in pixels.

    Returns:
        uint8, (*image_size, 3).
    """
    return _view(Image.fromarray(photo), image_size)


def evaluation_image(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """`evaluation_view` of a file: uint8, (*image_size, 3).

    Raises:
        UnreadablePhoto: the file is damaged or not a photo; the message begins with its path.
    """
    try:
        with decoded_photo(path) as photo:
            return _view(photo.image, image_size)
    except UnreadablePhoto as error:
        raise UnreadablePhoto(f"{path}: {error}") from None


def _view(photo: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
    height, width = image_size
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
    return np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR, box=box))


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
