"""A photo file -> upright RGB pixels, decoded within a budget of memory.

Pillow and numpy only, so that every machine and every device decodes the same pixels.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

# Pillow warns of damaged EXIF and of large photos; `catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

MAX_JPEG_PIXELS = 400_000_000
"""Phones make JPEGs of 200 megapixels. Other formats end at Pillow's own limit of 179."""

BYTES_PER_PIXEL = 8
"""Pillow stores up to 4 bytes a pixel, and keeps a copy while a photo is turned or converted."""

COEFFICIENT_BYTES_PER_PIXEL = 6
"""The decoder holds 2 bytes for each of 3 channels of a whole progressive JPEG."""

ROWS_PER_BAND = 256

# What Pillow's decoders raise on damaged files.
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, MemoryError,
    OverflowError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


class UnreadablePhoto(Exception):
    """The file is not a photo, or is damaged; the message says which."""


class ByteBudget:
    """Bytes that threads may use at the same time. A thread waits while too few are left."""

    def __init__(self, num_bytes: int) -> None:
        self._total = self._left = num_bytes
        self._changed = threading.Condition()

    @contextmanager
    def take(self, num_bytes: int) -> Iterator[None]:
        """Hold so many bytes. A request above the whole budget waits until it is alone."""
        share = min(num_bytes, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= share)
            self._left -= share
        try:
            yield
        finally:
            with self._changed:
                self._left += share
                self._changed.notify_all()


DECODING = ByteBudget(2**30)
"""What all decodes of this process share: 11 photos of 12 megapixels, or one of 130."""


@dataclass(frozen=True)
class DecodedPhoto:
    """The pixels of a photo, and its size.

    Attributes:
        image: upright, RGB. It may have fewer pixels than the photo.
        width, height: of the upright photo, in its own pixels.
    """

    image: Image.Image
    width: int
    height: int


@contextmanager
def decoded_photo(path: Path, max_short_side: int | None = None) -> Iterator[DecodedPhoto]:
    """The photo, decoded to its last row; its bytes count in `DECODING` until the block ends.

    Grey, palette, CMYK and 16-bit photos become 8-bit RGB. Transparent photos are laid on white.
    An animation gives its first frame. A JPEG above Pillow's limit is decoded at an eighth of
    its width and height.

    Args:
        max_short_side: the JPEG decoder may skip detail that a short side of so many pixels
            does not need.

    Raises:
        UnreadablePhoto: the file is empty, cut short, damaged, too large, or not a photo.
        FileNotFoundError: there is no such file.
    """
    with ExitStack() as stack:
        try:
            if Path(path).stat().st_size == 0:
                raise UnreadablePhoto("empty file")
            image = stack.enter_context(_open(path))
            size = image.size
            _skip_detail(image, max_short_side)
            stack.enter_context(DECODING.take(_bytes_to_decode(image, size)))
            image.load()
            upright = _upright(image)
            rgb = _to_rgb(upright)
        except UnidentifiedImageError:
            raise UnreadablePhoto("not a photo, or of an unknown kind") from None
        except Image.DecompressionBombError:
            raise UnreadablePhoto("too many pixels to be a photo") from None
        except FileNotFoundError:
            raise
        except PermissionError:
            raise UnreadablePhoto("no permission to read it") from None
        except DAMAGED as error:
            reason = "truncated" if "truncated" in str(error) else "damaged"
            raise UnreadablePhoto(f"{reason} ({error})") from None
        width, height = _full_size(upright, image, size)
        yield DecodedPhoto(rgb, width, height)


def decode_photo(path: Path, max_short_side: int | None = None) -> np.ndarray:
    """The pixels of `decoded_photo`: uint8, (height, width, 3).

    Args:
        max_short_side: shrink (never enlarge) until the short side is at most this many pixels.
    """
    with decoded_photo(path, max_short_side) as photo:
        rgb = photo.image
        if max_short_side is not None and min(rgb.size) > max_short_side:
            scale = max_short_side / min(rgb.size)
            size = (round(rgb.width * scale), round(rgb.height * scale))
            rgb = rgb.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(rgb)


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright photo, after all of it was decoded.

    Raises:
        UnreadablePhoto: as `decoded_photo`.
    """
    with decoded_photo(path) as photo:
        return photo.width, photo.height


def _open(path: Path) -> Image.Image:
    """The file with its header read; a JPEG may exceed Pillow's limit."""
    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        try:
            jpeg = JpegImageFile(path)
        except SyntaxError:
            jpeg = None
        if jpeg is None or jpeg.width * jpeg.height > MAX_JPEG_PIXELS:
            raise
        return jpeg


def _is_large(size: tuple[int, int]) -> bool:
    limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and size[0] * size[1] > 2 * limit  # where Pillow refuses


def _skip_detail(image: Image.Image, max_short_side: int | None) -> None:
    """Let the JPEG decoder halve the photo up to three times, where fewer pixels are enough."""
    if _is_large(image.size):
        image.draft(None, (image.width // 8, image.height // 8))
    elif max_short_side is not None and image.format == "JPEG":
        image.draft(None, (max_short_side, max_short_side))


def _bytes_to_decode(image: Image.Image, full_size: tuple[int, int]) -> int:
    num_bytes = image.width * image.height * BYTES_PER_PIXEL
    # A large JPEG is counted as if it were progressive: Pillow does not tell how its scans lie.
    if "progressive" in image.info or _is_large(full_size):
        num_bytes += full_size[0] * full_size[1] * COEFFICIENT_BYTES_PER_PIXEL
    return num_bytes


def _full_size(
    upright: Image.Image, image: Image.Image, header_size: tuple[int, int]
) -> tuple[int, int]:
    if image.format not in ("JPEG", "MPO"):
        return upright.size  # a TIFF is upright as soon as it is loaded
    was_turned = upright.size != image.size
    return (header_size[1], header_size[0]) if was_turned else header_size


def _upright(image: Image.Image) -> Image.Image:
    try:
        # Pillow copies a photo that is upright already.
        is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if is_upright else ImageOps.exif_transpose(image)
    except DAMAGED:
        return image  # the pixels are whole; only the EXIF is damaged


def _largest(image: Image.Image) -> float:
    """The largest value of an image with one channel."""
    return float(np.asarray(image.getextrema()).max())


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    is_16_bit = image.mode.startswith("I;") or (image.mode == "I" and _largest(image) > 255)
    rgb = Image.new("RGB", image.size)
    # In bands, because some conversions need 40 bytes a pixel.
    for top in range(0, image.height, ROWS_PER_BAND):
        bottom = min(top + ROWS_PER_BAND, image.height)
        band = image.crop((0, top, image.width, bottom))
        rgb.paste(_band_to_rgb(band, is_16_bit=is_16_bit), (0, top))
    return rgb


def _band_to_rgb(band: Image.Image, *, is_16_bit: bool) -> Image.Image:
    if band.mode.startswith("I") or band.mode == "F":
        values = np.asarray(band, dtype="float64")
        # 257, so that 65535 becomes 255.
        scaled = np.clip(values, 0, 65535) / 257 if is_16_bit else np.clip(values, 0, 255)
        return Image.fromarray(scaled.round().astype("uint8")).convert("RGB")
    if band.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in band.info:
        rgba = band.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return band.convert("RGB")
