"""Corruptions of photos, against values worked by hand and SciPy's filters."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from configs.errors import UserError
from eval.scoring.corruption.corruptions import CORRUPTIONS, STRENGTHS, corrupt

KINDS = CORRUPTIONS.names()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Blurred spots of many colours, 224 x 200 pixels."""
    spots = np.random.default_rng(0).integers(0, 256, (40, 36, 3), "uint8")
    return np.asarray(Image.fromarray(spots).resize((200, 224), Image.Resampling.BICUBIC))


def flat(*pixel: int, side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), pixel, "uint8")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_arguments_give_the_same_photo(kind: str, photo: np.ndarray) -> None:
    before = photo.copy()
    first, again = (corrupt(photo, kind, strength=3, seed=7) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == photo.shape
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(photo, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_greater_strength_changes_a_photo_more(kind: str, photo: np.ndarray) -> None:
    distances = [
        np.abs(corrupt(photo, kind, strength=strength, seed=7).astype(float) - photo).mean()
        for strength in STRENGTHS
    ]
    assert distances[0] > 0
    assert sorted(distances) == distances
    assert distances[4] > 1.3 * distances[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (33, 8)])
def test_photos_of_any_shape_are_corrupted(kind: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), "uint8")
    assert corrupt(image, kind, strength=5, seed=1).shape == image.shape


def test_another_seed_is_another_noise(photo: np.ndarray) -> None:
    one, other = (corrupt(photo, "noise", strength=3, seed=seed) for seed in (1, 2))
    assert (one != other).mean() > 0.9


@pytest.mark.parametrize(
    # Strength 5 is 0.10 of white at 32 px and 0.38 at 224 px; sqrt(32 * 224) is halfway.
    ("side", "share"),
    [(32, 0.10), (85, 0.24), (224, 0.38), (16, 0.10), (400, 0.38)],
)
def test_noise_is_as_strong_as_published_and_interpolated_between(side: int, share: float) -> None:
    grey = corrupt(flat(128, 128, 128, side=side), "noise", strength=5, seed=3).astype(float)
    # Values beyond 0..255 are clipped, so the share within half a deviation is compared:
    # erf(0.5 / sqrt 2).
    within = (np.abs(grey - 128) < 0.5 * 255 * share).mean()
    assert within == pytest.approx(0.383, abs=0.04)  # 768 values at least: 2.3 deviations


def test_brightness_raises_the_largest_channel_and_keeps_the_hue() -> None:
    # Strength 5 at 32 px adds 0.3 * 255 = 76.5 to the largest channel: 100 -> 176.5
    image = corrupt(flat(100, 50, 0), "brightness", strength=5, seed=0)
    assert image[0, 0].tolist() == [176, 88, 0]  # numpy rounds halves to even
    assert corrupt(flat(0, 0, 0), "brightness", strength=5, seed=0)[0, 0].tolist() == [76] * 3
    assert corrupt(flat(250, 125, 0), "brightness", strength=5, seed=0)[0, 0, 0] == 255


def test_contrast_draws_channels_towards_their_means() -> None:
    image = flat(0, 10, 200)
    image[:16] = (100, 10, 200)  # means 50, 10, 200; strength 1 at 32 px keeps three quarters
    corrupted = corrupt(image, "contrast", strength=1, seed=0)
    assert corrupted[0, 0].tolist() == [88, 10, 200]  # 50 + 0.75 * 50 = 87.5, to even
    assert corrupted[31, 0].tolist() == [12, 10, 200]


def test_pixelate_makes_blocks_of_one_colour() -> None:
    # Strength 5 at 224 px leaves a quarter: blocks of 4 x 4, each the mean of its pixels
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), "uint8")
    corrupted = corrupt(image, "pixelate", strength=5, seed=0)
    blocks = image.reshape(56, 4, 56, 4, 3).mean(axis=(1, 3))
    expected = blocks.repeat(4, axis=0).repeat(4, axis=1)
    assert np.abs(corrupted - expected).max() <= 1  # rounded twice: along rows and along columns


def test_blur_is_gaussian_and_grows_with_the_photo() -> None:
    for side, sigma in ((224, 4.0), (448, 8.0)):
        image = np.zeros((side, side, 3), "uint8")
        image[side // 4 : side // 2] = 200
        corrupted = corrupt(image, "blur", strength=4, seed=0)
        expected = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest")
        assert np.abs(corrupted - expected).max() < 5  # Pillow's is three boxes in a row


def test_jpeg_loses_detail_and_no_mean_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), "uint8")
    corrupted = corrupt(image, "jpeg", strength=5, seed=0).astype(float)
    assert corrupted.std() < 0.6 * image.std()
    assert corrupted.mean() == pytest.approx(image.mean(), abs=4)


def test_an_unknown_kind_or_strength_is_refused(photo: np.ndarray) -> None:
    with pytest.raises(UserError, match="Did you mean noise"):
        corrupt(photo, "noisy", strength=1, seed=0)
    with pytest.raises(ValueError, match="1 to 5"):
        corrupt(photo, "noise", strength=6, seed=0)
