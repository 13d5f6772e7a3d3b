"""`CORRUPTIONS`: noise, blur and other damage to a photo, at five strengths, as pure functions.

The idea and the strengths are those of Hendrycks and Dietterich 2019 (arXiv:1903.12261, section 4).
They chose strengths for ImageNet at 224 px and milder ones for CIFAR-10 at 32 px. Photos of other
sizes get interpolated strengths, so that a small photo is damaged as much as a large one.
"""

import io
import math

import numpy as np
from PIL import Image, ImageFilter

from configs.registry import Registry

CORRUPTIONS = Registry("corruption")
STRENGTHS = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224

Five = tuple[float, float, float, float, float]


def corrupt(photo: np.ndarray, kind: str, *, strength: int, seed: int) -> np.ndarray:
    """The corrupted photo. The same arguments always give the same photo.

    Args:
        photo: uint8, (height, width, 3).
        kind: a name in CORRUPTIONS.
        strength: 1 (visible) to 5 (severe).
        seed: of the random numbers; it should differ from photo to photo.

    Returns:
        uint8, of the same shape.
    """
    if strength not in STRENGTHS:
        raise ValueError(f"strength {strength}; expected 1 to 5")
    return np.asarray(CORRUPTIONS[kind](photo, strength, np.random.default_rng(seed)), np.uint8)


def _of_size(photo: np.ndarray, strength: int, *, small: Five, large: Five) -> float:
    """A parameter for the photo's short side, between the values for 32 and for 224 px."""
    position = math.log(min(photo.shape[:2]) / SMALL) / math.log(LARGE / SMALL)
    return float(np.interp(position, [0, 1], [small[strength - 1], large[strength - 1]]))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


@CORRUPTIONS.add
def noise(photo: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise, as from a sensor in the dark; all strengths have the same grain."""
    share = _of_size(
        photo, strength, small=(0.04, 0.06, 0.08, 0.09, 0.10), large=(0.08, 0.12, 0.18, 0.26, 0.38)
    )
    return _rounded(photo + 255 * share * rng.standard_normal(photo.shape, "float32"))


@CORRUPTIONS.add
def blur(photo: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur, as from a lens out of focus; above 224 px it grows with the photo."""
    sigma = _of_size(photo, strength, small=(0.4, 0.6, 0.7, 0.8, 1.0), large=(1, 2, 3, 4, 6))
    sigma *= max(min(photo.shape[:2]) / LARGE, 1)
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(sigma)))


@CORRUPTIONS.add
def jpeg(photo: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Compression to a JPEG of low quality."""
    quality = _of_size(photo, strength, small=(80, 65, 58, 50, 40), large=(25, 18, 15, 10, 7))
    content = io.BytesIO()
    Image.fromarray(photo).save(content, "JPEG", quality=round(quality))
    return np.asarray(Image.open(content).convert("RGB"))


@CORRUPTIONS.add
def pixelate(photo: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Fewer pixels, enlarged again, as by digital zoom."""
    share = _of_size(
        photo, strength, small=(0.95, 0.9, 0.85, 0.75, 0.65), large=(0.6, 0.5, 0.4, 0.3, 0.25)
    )
    image = Image.fromarray(photo)
    size = (max(int(image.width * share), 1), max(int(image.height * share), 1))
    coarse = image.resize(size, Image.Resampling.BOX)
    return np.asarray(coarse.resize(image.size, Image.Resampling.NEAREST))


@CORRUPTIONS.add
def brightness(photo: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Overexposure: the largest channel of a pixel grows by a share of white, and its hue stays."""
    share = _of_size(
        photo, strength, small=(0.05, 0.1, 0.15, 0.2, 0.3), large=(0.1, 0.2, 0.3, 0.4, 0.5)
    )
    largest = photo.max(axis=2, keepdims=True).astype("float32")
    brighter = np.minimum(largest + 255 * share, 255)
    # Black has no hue to keep and becomes grey.
    return _rounded(np.where(largest > 0, photo * (brighter / np.maximum(largest, 1)), brighter))


@CORRUPTIONS.add
def contrast(photo: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Low contrast, as in fog: every channel moves towards its mean."""
    share = _of_size(
        photo, strength, small=(0.75, 0.5, 0.4, 0.3, 0.15), large=(0.4, 0.3, 0.2, 0.1, 0.05)
    )
    mean = photo.mean(axis=(0, 1), keepdims=True)
    return _rounded(mean + share * (photo - mean))
