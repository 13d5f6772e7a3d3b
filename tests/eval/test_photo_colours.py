from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.photo_files import decode_photo


def greys(tmp_path: Path, values: list[float], dtype: str = "float32") -> list[int]:
    """What a TIFF with these values in one row is decoded to."""
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tif")
    photo = decode_photo(tmp_path / "a.tif")
    assert photo.shape == (1, len(values), 3)
    assert (photo == photo[..., :1]).all()
    return [int(value) for value in photo[0, :, 0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.2, 1], [0, 51, 255]),
        ([0, 0.2, 0.4], [0, 51, 102]),  # a dark photo of 0..1 stays dark
        ([0, 51, 255], [0, 51, 255]),
        ([0, 2, 60], [0, 2, 60]),
        ([0, 25700, 65535], [0, 100, 255]),  # 257 steps of 16 bits are one of 8
        ([0, 300, 2570], [0, 1, 10]),
        ([-0.05, 0.2, 1.04], [0, 51, 255]),  # a sharp resize goes beyond black and white
        ([-8, 51, 270], [0, 51, 255]),
        ([-1, 0.6, 1], [0, 204, 255]),  # 255 * 1.6 / 2
        ([-1000, 0, 3000], [0, 64, 255]),  # 255 * 1000 / 4000 = 63.75
        ([0, 1e5, 5e5], [0, 51, 255]),
        ([0, float("nan"), 0.2, float("inf"), float("-inf"), 1], [0, 0, 51, 255, 0, 255]),
        ([0, 0], [0, 0]),
        ([-7, -7], [0, 0]),
        ([float("nan")], [0]),
    ],
)
def test_floats_are_scaled_by_the_range_of_the_photo(
    tmp_path: Path, values: list[float], expected: list[int]
) -> None:
    assert greys(tmp_path, values) == expected


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 25700, 65535], "uint16", [0, 100, 255]),
        ([0, 257, 2570], "uint16", [0, 1, 10]),
        ([0, 51, 255], "int32", [0, 51, 255]),
        ([0, 25700, 65535], "int32", [0, 100, 255]),
        ([-1000, 0, 3000], "int32", [0, 64, 255]),
        ([0, 1, 1], "int32", [0, 1, 1]),  # whole numbers of 0..1 are not floats
    ],
)
def test_whole_numbers_of_more_than_8_bits(
    tmp_path: Path, values: list[float], dtype: str, expected: list[int]
) -> None:
    assert greys(tmp_path, values, dtype) == expected


def test_16_bit_colours_keep_their_high_byte(tmp_path: Path) -> None:
    # A binary PPM with 16 bits a channel: Pillow writes none.
    content = np.array([0, 100 * 257, 65535], ">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P6 1 1 65535\n" + content)
    assert decode_photo(tmp_path / "a.ppm")[0, 0].tolist() == [0, 100, 255]
