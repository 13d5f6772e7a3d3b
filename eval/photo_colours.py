"""A decoded photo of any mode -> 8-bit RGB.

Pillow and numpy only, as in `eval/photo_files.py`.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

ROWS_PER_BAND = 256

FLOAT_WHITES = (1, 255, 65535)
"""White in photos of floats: whichever of these the values of the whole photo fit."""
INTEGER_WHITES = (255, 65535)

OVERSHOOT = 0.1
"""How far floats may lie beyond black or white, as a share of the largest: resizing does that."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The photo as 8-bit RGB. Transparent photos are laid on white.

    Numbers of more than 8 bits and floats are scaled, so that white is 255.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    black, white = black_and_white(image) if _is_wide(image) else (0.0, 255.0)
    rgb = Image.new("RGB", image.size)
    for top, band in _bands(image):
        rgb.paste(_band_to_rgb(band, black=black, white=white), (0, top))
    return rgb


def black_and_white(image: Image.Image) -> tuple[float, float]:
    """The values that stand for black and white in a photo of wide integers or floats.

    16-bit photos have white at 65535. Elsewhere the values tell: floats of 0..1, 0..255 or 0..65535
    keep their scale, so that a dark photo stays dark. A photo with other values, as from a
    measuring camera, has its smallest value as black and its largest as white.
    """
    if image.mode.startswith("I;"):
        return 0.0, 65535.0
    smallest, largest = _extremes(image)
    slack = OVERSHOOT if image.mode == "F" else 0.0
    for white in FLOAT_WHITES if image.mode == "F" else INTEGER_WHITES:
        if smallest >= -slack * min(white, largest) and largest <= (1 + slack) * white:
            return 0.0, float(white)
    return smallest, largest


def _is_wide(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Parts of the photo from top to bottom, because some conversions need 40 bytes a pixel."""
    for top in range(0, image.height, ROWS_PER_BAND):
        bottom = min(top + ROWS_PER_BAND, image.height)
        yield top, image.crop((0, top, image.width, bottom))


def _extremes(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest finite value; 0 and 0 without any."""
    smallest, largest = np.inf, -np.inf
    for _, band in _bands(image):
        values = np.asarray(band, dtype="float64")
        finite = np.isfinite(values)
        smallest = min(smallest, values.min(where=finite, initial=np.inf))
        largest = max(largest, values.max(where=finite, initial=-np.inf))
    return (float(smallest), float(largest)) if smallest <= largest else (0.0, 0.0)


def _band_to_rgb(band: Image.Image, *, black: float, white: float) -> Image.Image:
    if _is_wide(band):
        values = np.asarray(band, dtype="float64")
        values = np.nan_to_num(values, nan=black, posinf=white, neginf=black)
        # A photo with one value everywhere may have no range: it is black.
        scaled = np.clip(values - black, 0, white - black) * (255 / ((white - black) or 1))
        return Image.fromarray(scaled.round().astype("uint8")).convert("RGB")
    if band.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in band.info:
        rgba = band.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return band.convert("RGB")
