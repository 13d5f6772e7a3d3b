"""A photo file -> the array a model sees at evaluation: decode, EXIF, crop, resize.

Pillow and numpy only: the same pixels on the training machine, in the service and on a device.
"""

import struct
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Damaged EXIF and large photos are warned of; `catch_warnings` would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

# What Pillow's decoders raise on files that are not whole.
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, MemoryError,
    OverflowError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


class UnreadablePhoto(Exception):
    """A file that is no photo, or not a whole one; says which."""


def decode_photo(path: Path, max_short_side: int | None = None) -> np.ndarray:
    """The photo as RGB, upright, decoded to its last row.

    Grey, palette, CMYK and 16-bit photos become 8-bit RGB; what is transparent lies on white;
    an animation gives its first frame.

    Args:
        max_short_side: shrink (never enlarge) until the short side is at most this many pixels.

    Returns:
        uint8, (height, width, 3).

    Raises:
        UnreadablePhoto: empty, cut short, damaged, too large, or no photo at all.
        FileNotFoundError: there is no such file.
    """
    if Path(path).stat().st_size == 0:
        raise UnreadablePhoto("empty file")
    try:
        with Image.open(path) as image:
            if max_short_side is not None and image.format == "JPEG":
                # The decoder leaves out what would be thrown away; never below the aim.
                image.draft(None, (max_short_side, max_short_side))
            image.load()
            rgb = _to_rgb(_upright(image))
    except UnidentifiedImageError:
        raise UnreadablePhoto("not a photo, or of a kind that is not known") from None
    except Image.DecompressionBombError:
        raise UnreadablePhoto("too many pixels to be a photo") from None
    except FileNotFoundError:
        raise
    except PermissionError:
        raise UnreadablePhoto("no permission to read it") from None
    except DAMAGED as error:
        reason = "truncated" if "truncated" in str(error) else "damaged"
        raise UnreadablePhoto(f"{reason} ({error})") from None
    if max_short_side is not None and min(rgb.size) > max_short_side:
        scale = max_short_side / min(rgb.size)
        size = (round(rgb.width * scale), round(rgb.height * scale))
        rgb = rgb.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGED:
        return image  # the pixels are whole; only what is said of them is not


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype="float64")
        # Mode I holds any range; I;16 is 16 bits, however dark the photo.
        if image.mode == "F" or (image.mode == "I" and values.max(initial=0) <= 255):
            scaled = np.clip(values, 0, 255)
        else:
            scaled = np.clip(values, 0, 65535) / 257  # 65535 -> 255
        return Image.fromarray(scaled.round().astype("uint8")).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def evaluation_view(photo: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The largest centred part of the input's shape, resized to it (bilinear, antialiased).

    Args:
        photo: uint8, (height, width, 3).
        image_size: height and width of the model's input, in pixels.

    Returns:
        uint8, (*image_size, 3).
    """
    height, width = image_size
    scale = min(photo.shape[0] / height, photo.shape[1] / width)
    crop_height, crop_width = scale * height, scale * width
    top, left = (photo.shape[0] - crop_height) / 2, (photo.shape[1] - crop_width) / 2
    image = Image.fromarray(photo).resize(
        (width, height),
        Image.Resampling.BILINEAR,
        # Rounding must not put the box outside the photo.
        box=(
            max(left, 0.0),
            max(top, 0.0),
            min(left + crop_width, photo.shape[1]),
            min(top + crop_height, photo.shape[0]),
        ),
    )
    return np.asarray(image)


def evaluation_image(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """`evaluation_view` of a file: uint8, (*image_size, 3).

    Raises:
        UnreadablePhoto: as `decode_photo`, the path in front.
    """
    try:
        return evaluation_view(decode_photo(path), image_size)
    except UnreadablePhoto as error:
        raise UnreadablePhoto(f"{path}: {error}") from None


def evaluation_batches(
    paths: Sequence[Path],
    image_size: tuple[int, int],
    batch_size: int = 32,
    see: Callable[[Path, tuple[int, int]], np.ndarray] = evaluation_image,
) -> Iterator[np.ndarray]:
    """`evaluation_image` of many files, in order, decoded ahead by a few threads.

    Args:
        see: what is seen of a file in its place; the batches then hold that.

    Yields:
        uint8, (batch, *image_size, 3); the last batch may be smaller.
    """
    remaining = iter(paths)
    with ThreadPoolExecutor() as pool:
        ahead: deque[Future[np.ndarray]] = deque()

        def fill(count: int) -> None:
            for path in islice(remaining, count):
                ahead.append(pool.submit(see, path, image_size))

        fill(2 * batch_size)
        while ahead:
            batch = [ahead.popleft().result() for _ in range(min(batch_size, len(ahead)))]
            fill(batch_size)
            yield np.stack(batch)
