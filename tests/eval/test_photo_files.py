import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import photo_files
from eval.photo_files import ByteBudget, UnreadablePhoto, UnreadKind, decode_photo, photo_size


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "webp", "bmp", "gif", "tif", "avif", "jfif", "jp2", "ppm"]
)
def test_every_kind_of_photo_becomes_rgb(tmp_path: Path, suffix: str) -> None:
    photo = decode_photo(save(tmp_path / f"a.{suffix}", Image.new("RGB", (6, 4), "red")))
    assert photo.shape == (4, 6, 3)
    assert photo.dtype == np.uint8
    # Lossy kinds round colours by a few steps.
    np.testing.assert_allclose(photo[0, 0].astype(int), [255, 0, 0], atol=4)


def test_a_turned_photo_is_set_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    photo = decode_photo(save(tmp_path / "a.png", image, exif=exif))
    assert photo[:, 0, 0].tolist() == [255, 0]


def test_damaged_exif_does_not_cost_the_photo(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("RGB", (6, 4)), exif=b"Exif\0\0no exif at all")
    assert decode_photo(path).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("L", 100, [100, 100, 100]),
        ("1", 1, [255, 255, 255]),
        ("LA", (0, 0), [255, 255, 255]),
        ("RGBA", (255, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (255, 0, 0, 255), [255, 0, 0]),
        ("I;16", 25700, [100, 100, 100]),  # 257 steps of 16 bits are one of 8
        ("I;16", 200, [1, 1, 1]),  # a dark photo stays dark
    ],
)
def test_colours_of_every_mode(tmp_path: Path, mode: str, colour: object, rgb: list[int]) -> None:
    image = Image.new(mode, (3, 3), colour)  # type: ignore[arg-type]
    assert decode_photo(save(tmp_path / "a.png", image))[1, 1].tolist() == rgb


def test_a_transparent_palette_colour_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 3), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    photo = decode_photo(save(tmp_path / "a.png", image, transparency=0))
    assert photo[1, 1].tolist() == [255, 255, 255]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    photo = decode_photo(save(tmp_path / "a.tif", Image.new("CMYK", (3, 3), (0, 255, 255, 0))))
    assert photo[1, 1].tolist() == [255, 0, 0]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode_photo(path)[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "webp", "gif", "tif", "bmp", "avif", "jfif", "jp2", "ppm"]
)
def test_a_truncated_photo_is_unreadable(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    whole = path.read_bytes()
    for part in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(UnreadablePhoto):
            decode_photo(path)


def test_no_photo_at_all_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no photo")
    with pytest.raises(UnreadablePhoto, match="empty file"):
        decode_photo(tmp_path / "empty.jpg")
    with pytest.raises(UnreadablePhoto, match="not a photo"):
        decode_photo(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError):
        decode_photo(tmp_path / "missing.jpg")


HEIC_START = b"\0\0\0\x18ftypheic"


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "an_iphone_called_it.jpg"])
def test_heic_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / name).write_bytes(HEIC_START + bytes(500))
    with pytest.raises(UnreadKind, match=r"pip install 'potstill\[heic\]'"):
        decode_photo(tmp_path / name)


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_is_read_with_its_package_and_set_upright_once(tmp_path: Path, name: str) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20] = (250, 0, 0)  # red on the left, which is the top after a quarter turn
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.heic", Image.fromarray(pixels), exif=exif.tobytes(), quality=100)
    (tmp_path / "a.heic").rename(tmp_path / name)
    photo = decode_photo(tmp_path / name)
    assert photo.shape == (60, 40, 3)
    # HEVC rounds colours by a few steps.
    np.testing.assert_allclose(photo[5, 20].astype(int), [250, 0, 0], atol=8)
    np.testing.assert_allclose(photo[50, 20].astype(int), [0, 0, 0], atol=8)


def test_a_damaged_heic_is_damaged_and_asks_for_no_package(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    (tmp_path / "a.heic").write_bytes(HEIC_START + bytes(500))
    with pytest.raises(UnreadablePhoto) as error:
        decode_photo(tmp_path / "a.heic")
    assert not isinstance(error.value, UnreadKind)


def test_avif_where_pillow_lacks_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.avif", Image.new("RGB", (6, 4)))
    # As Pillow's own plugin does where the codec is missing.
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(UnreadKind, match="Pillow was built without AVIF"):
        decode_photo(path)


@pytest.mark.parametrize("suffix", ["dng", "CR2", "nef"])
def test_a_raw_photo_is_not_replaced_by_its_preview(tmp_path: Path, suffix: str) -> None:
    preview = save(tmp_path / "preview.tif", Image.new("RGB", (6, 4)))
    with pytest.raises(UnreadKind, match="RAW photos of cameras are not read"):
        decode_photo(preview.rename(tmp_path / f"a.{suffix}"))


def test_jpeg_xl_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + bytes(50))
    with pytest.raises(UnreadKind, match="JPEG XL"):
        decode_photo(tmp_path / "a.jxl")


def test_a_decompression_bomb_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadablePhoto, match="too many pixels"):
        decode_photo(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_shrinking_stops_at_the_short_side_and_never_enlarges(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.new("RGB", (300, 100)))
    assert decode_photo(path, max_short_side=20).shape == (20, 60, 3)
    assert decode_photo(path, max_short_side=500).shape == (100, 300, 3)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "I;16", "CMYK", "F"])
def test_a_tall_photo_is_converted_as_its_parts_are(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (600, 7, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype("uint16") * 257)
    elif mode == "RGBA":
        image.putalpha(Image.fromarray(noise[..., 1]))
    image = image.convert(mode)
    whole = decode_photo(save(tmp_path / "whole.tif", image))
    for top in (0, 255, 511):
        part = save(tmp_path / "part.tif", image.crop((0, top, 7, top + 3)))
        np.testing.assert_array_equal(decode_photo(part), whole[top : top + 3])


def test_a_jpeg_above_the_limit_is_read_at_an_eighth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = save(tmp_path / "a.jpg", Image.new("RGB", (160, 80), (200, 100, 50)), exif=exif)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    photo = decode_photo(path)
    assert photo.shape == (20, 10, 3)
    assert decode_photo(path, max_short_side=60).shape == (20, 10, 3)
    assert photo_size(path) == (80, 160)
    # JPEG rounds colours by a few steps.
    np.testing.assert_allclose(photo[5, 5].astype(int), [200, 100, 50], atol=4)


def test_a_jpeg_is_refused_where_its_coefficients_would_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.jpg", Image.new("RGB", (160, 80)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    monkeypatch.setattr(photo_files, "MAX_JPEG_PIXELS", 12_000)
    with pytest.raises(UnreadablePhoto, match="too many pixels"):
        decode_photo(path)


class Overlap:
    """Counts how many photos are decoded at the same time."""

    def __init__(self, decode: Callable[[Image.Image], Image.Image]) -> None:
        self._decode = decode
        self._lock = threading.Lock()
        self._active = 0
        self.largest = 0

    def __call__(self, image: Image.Image) -> Image.Image:
        with self._lock:
            self._active += 1
            self.largest = max(self.largest, self._active)
        time.sleep(0.02)  # long enough for every other thread to come here too
        rgb = self._decode(image)
        with self._lock:
            self._active -= 1
        return rgb


@pytest.mark.parametrize(("photos_in_budget", "at_once"), [(0.5, 1), (1, 1), (2.5, 2), (100, 6)])
def test_decodes_at_the_same_time_stay_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos_in_budget: float, at_once: int
) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (50, 40)))
    overlap = Overlap(photo_files.to_rgb)
    monkeypatch.setattr(photo_files, "to_rgb", overlap)
    budget = int(photos_in_budget * 50 * 40 * photo_files.BYTES_PER_PIXEL)
    monkeypatch.setattr(photo_files, "DECODING", ByteBudget(budget))
    with ThreadPoolExecutor(6) as pool:
        sizes = list(pool.map(photo_size, [path] * 12))
    assert sizes == [(50, 40)] * 12
    assert overlap.largest <= at_once
    if at_once > 1:
        assert overlap.largest > 1  # photos that fit together do not wait for each other


def test_a_broken_photo_gives_its_bytes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(noise))
    whole = path.read_bytes()
    monkeypatch.setattr(photo_files, "DECODING", ByteBudget(1))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadablePhoto):
        decode_photo(path)
    path.write_bytes(whole)
    assert photo_size(path) == (40, 40)  # would wait for ever


def test_an_avif_without_an_image_item_is_unreadable(tmp_path: Path) -> None:
    path = save(tmp_path / "a.avif", Image.new("RGB", (16, 16), "red"))
    path.write_bytes(path.read_bytes().replace(b"av01", b"av99"))
    with pytest.raises(UnreadablePhoto):
        decode_photo(path)
