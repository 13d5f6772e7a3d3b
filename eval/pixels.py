"""The pixels that a model expects: `Pixels`, and the options that say so."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat

from configs.errors import UserError

Scale = Annotated[FiniteFloat, Field(gt=0)]
Triple = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
PositiveTriple = tuple[Scale, Scale, Scale]


@dataclass(frozen=True)
class Pixels:
    """What a model expects of its input: (pixel - mean) / std, with pixels in 0..255."""

    mean: Triple
    std: PositiveTriple

    def apply(self, images: np.ndarray) -> np.ndarray:
        """float32 images as the model takes them, from uint8 or float (..., 3)."""
        mean, std = np.array(self.mean, "float32"), np.array(self.std, "float32")
        return (images.astype("float32") - mean) / std

    def describe(self) -> dict[str, Any]:
        """The JSON value that is written into a file's metadata."""
        return {"range": [0, 255], "mean": list(self.mean), "std": list(self.std)}


OWN_PIXELS = Pixels(mean=(0.0,) * 3, std=(1.0,) * 3)
RANGES = {
    "0..255": OWN_PIXELS,
    "0..1": Pixels(mean=(0.0,) * 3, std=(255.0,) * 3),
    "-1..1": Pixels(mean=(127.5,) * 3, std=(127.5,) * 3),
}


def pixels_from_options(pixels: str | None, mean: str | None, std: str | None) -> Pixels | None:
    """The pixels that `--pixels`, or `--mean` and `--std`, describe; None without any of them.

    Raises:
        UserError: both ways are used, or a value cannot be read.
    """
    if pixels is not None and (mean or std):
        raise UserError("--pixels and --mean/--std say the same thing twice. Give one of them.")
    if pixels is None and mean is None and std is None:
        return None
    if pixels is None:
        return Pixels(_triple("--mean", mean or "0"), _triple("--std", std or "1", positive=True))
    if pixels not in RANGES:
        raise UserError(f"--pixels {pixels}: expected one of {', '.join(RANGES)}.")
    return RANGES[pixels]


def _triple(option: str, text: str, *, positive: bool = False) -> Triple:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or (positive and min(values) <= 0):
        raise UserError(f"{option} {text}: expected R,G,B in 0..255, as in 123.7,116.3,103.5.")
    return values[0], values[1], values[2]
