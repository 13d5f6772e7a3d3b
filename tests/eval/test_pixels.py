"""The pixels that a model expects, from options to an array."""

import numpy as np
import pytest

from configs.errors import UserError
from eval.pixels import RANGES, Pixels, pixels_from_options


@pytest.mark.parametrize(
    ("name", "values"),
    [("0..255", [0, 51, 255]), ("0..1", [0, 0.2, 1]), ("-1..1", [-1, -0.6, 1])],
)
def test_ranges_of_foreign_models(name: str, values: list[float]) -> None:
    image = np.array([[[0, 51, 255]]], "uint8")
    scaled = RANGES[name].apply(image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[0, 0], values, atol=1e-6)


def test_mean_and_std_are_per_channel() -> None:
    pixels = pixels_from_options(None, "10,20,30", "2")
    assert pixels == Pixels(mean=(10, 20, 30), std=(2, 2, 2))
    assert pixels.apply(np.array([[30, 30, 30]], "uint8")).tolist() == [[10, 5, 0]]
    assert pixels_from_options(None, None, None) is None


@pytest.mark.parametrize(
    "options",
    [("0..7", None, None), ("0..1", "3", None), (None, "1,2", None), (None, None, "1,0,1")],
)
def test_pixels_that_make_no_sense_are_refused(options: tuple[str | None, ...]) -> None:
    with pytest.raises(UserError):
        pixels_from_options(*options)
