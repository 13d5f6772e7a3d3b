"""A photo file, or its bytes -> upright RGB pixels, decoded within a budget of memory.

Pillow and numpy only, so that every machine and every device decodes the same pixels.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

from eval.packed_photos import LostPhoto, packed_photo
from eval.photo_colours import to_rgb

# Pillow warns of damaged EXIF and of large photos; `catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

RAW_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})  # fmt: skip
"""What cameras call their RAW photos. Pillow would open the small preview inside a few of them."""

PHOTO_SUFFIXES = RAW_SUFFIXES | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif", ".bmp",
    ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".jxl",
}  # fmt: skip
"""The endings of photos, of those too that cannot be read here: see `UnreadKind`."""

HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})
"""Brands of files with an `ftyp` box at their start (ISO/IEC 23008-12, AVIF specification)."""

MAX_JPEG_PIXELS = 400_000_000
"""Phones make JPEGs of 200 megapixels. Other formats end at Pillow's own limit of 179."""

BYTES_PER_PIXEL = 8
"""Pillow stores up to 4 bytes a pixel, and keeps a copy while a photo is turned or converted."""

COEFFICIENT_BYTES_PER_PIXEL = 6
"""The decoder holds 2 bytes for each of 3 channels of a whole progressive JPEG."""

# What Pillow's decoders raise on damaged files.
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, MemoryError,
    OverflowError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


PhotoSource = Path | BytesIO
"""A photo file, a photo inside a file (`packed_photo`), or one that is in memory."""


class UnreadablePhoto(Exception):
    """The file is not a photo, or is damaged; the message says which."""


class TooManyPixels(UnreadablePhoto):
    """The photo is too large to be decoded, as its header says."""


class UnreadKind(UnreadablePhoto):
    """Photos of this kind cannot be read here; the message says what to do."""


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
def decoded_photo(path: PhotoSource, max_short_side: int | None = None) -> Iterator[DecodedPhoto]:
    """The photo, decoded to its last row; its bytes count in `DECODING` until the block ends.

    Grey, palette, CMYK, 16-bit and float photos become 8-bit RGB; see `to_rgb`. An animation gives
    its first frame. HEIC needs the package pillow-heif. A JPEG above Pillow's limit is decoded at
    an eighth of its width and height.

    Args:
        max_short_side: the JPEG decoder may skip detail that a short side of so many pixels
            does not need.

    Raises:
        UnreadablePhoto: the file is empty, cut short, damaged, too large, or not a photo.
        UnreadKind: nothing here reads photos of its kind.
        FileNotFoundError: there is no such file.
    """
    with ExitStack() as stack:
        try:
            path = _unpacked(path)
            if _num_bytes(path) == 0:
                raise UnreadablePhoto("empty file")
            image = stack.enter_context(_open(path))
            size = image.size
            _skip_detail(image, max_short_side)
            stack.enter_context(DECODING.take(_bytes_to_decode(image, size)))
            image.load()
            upright = _upright(image)
            rgb = to_rgb(upright)
        except UnidentifiedImageError:
            raise UnreadablePhoto("not a photo, or of an unknown kind") from None
        except Image.DecompressionBombError:
            raise TooManyPixels("too many pixels to be a photo") from None
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


def photo_header(photo: BytesIO) -> tuple[str, int]:
    """The format of a photo, as Pillow calls it, and its number of pixels. Nothing is decoded.

    Raises:
        UnreadablePhoto: as `decoded_photo`, as far as a header shows it.
    """
    try:
        with _open(photo) as image:
            return image.format or "", image.width * image.height
    except UnidentifiedImageError:
        raise UnreadablePhoto("not a photo, or of an unknown kind") from None
    except Image.DecompressionBombError:
        raise TooManyPixels("too many pixels to be a photo") from None
    except DAMAGED as error:
        raise UnreadablePhoto(f"damaged ({error})") from None


def _unpacked(path: PhotoSource) -> PhotoSource:
    """The photo, in memory if it lies inside a larger file."""
    if isinstance(path, BytesIO):
        return path
    if path.suffix.lower() in RAW_SUFFIXES:
        raise UnreadKind("RAW photos of cameras are not read. Export them as JPEG")
    packed = packed_photo(path)
    try:
        return path if packed is None else BytesIO(packed.read())
    except LostPhoto as error:
        raise UnreadablePhoto(str(error)) from None


def _num_bytes(path: PhotoSource) -> int:
    return path.getbuffer().nbytes if isinstance(path, BytesIO) else Path(path).stat().st_size


def _open(path: PhotoSource) -> Image.Image:
    """The file with its header read; a JPEG may exceed Pillow's limit."""
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        _learn_kind(path)
        return Image.open(path)
    except Image.DecompressionBombError:
        try:
            if isinstance(path, BytesIO):
                path.seek(0)
            jpeg = JpegImageFile(path)
        except SyntaxError:
            jpeg = None
        if jpeg is None or jpeg.width * jpeg.height > MAX_JPEG_PIXELS:
            raise
        return jpeg


def _learn_kind(path: PhotoSource) -> None:
    """Teach Pillow the kind of a file that it does not know, if a package can.

    The content tells the kind, because phones and browsers also write HEIC and AVIF as .jpg.
    """
    if isinstance(path, BytesIO):
        start = bytes(path.getbuffer()[:12])
    else:
        with open(path, "rb") as file:
            start = file.read(12)
    brand = start[8:] if start[4:8] == b"ftyp" else b""
    if brand in HEIC_BRANDS:
        try:
            import pillow_heif
        except ImportError:
            raise UnreadKind(
                "HEIC photos need one more package: pip install 'potstill[heic]'"
            ) from None
        pillow_heif.register_heif_opener()
    elif brand in AVIF_BRANDS and not features.check("avif"):
        raise UnreadKind("this Pillow was built without AVIF: pip install --upgrade pillow")
    elif start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        raise UnreadKind("JPEG XL is not read. Convert the photos to JPEG or PNG")


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
