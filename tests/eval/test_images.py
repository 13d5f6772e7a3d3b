from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.images import (
    UnreadablePhoto,
    decode_photo,
    evaluation_batches,
    evaluation_image,
    evaluation_view,
)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_every_kind_of_photo_becomes_rgb(tmp_path: Path, suffix: str) -> None:
    photo = decode_photo(saved(tmp_path / f"a.{suffix}", Image.new("RGB", (6, 4), "red")))
    assert photo.shape == (4, 6, 3)
    assert photo.dtype == np.uint8
    # Lossy kinds round colours by a few steps.
    np.testing.assert_allclose(photo[0, 0].astype(int), [255, 0, 0], atol=4)


def test_a_turned_photo_is_set_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    photo = decode_photo(saved(tmp_path / "a.png", image, exif=exif))
    assert photo[:, 0, 0].tolist() == [255, 0]


def test_damaged_exif_does_not_cost_the_photo(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (6, 4)), exif=b"Exif\0\0no exif at all")
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
    assert decode_photo(saved(tmp_path / "a.png", image))[1, 1].tolist() == rgb


def test_a_transparent_palette_colour_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 3), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    photo = decode_photo(saved(tmp_path / "a.png", image, transparency=0))
    assert photo[1, 1].tolist() == [255, 255, 255]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    photo = decode_photo(saved(tmp_path / "a.tif", Image.new("CMYK", (3, 3), (0, 255, 255, 0))))
    assert photo[1, 1].tolist() == [255, 0, 0]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode_photo(path)[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_a_truncated_photo_is_unreadable(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(noise))
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


def test_a_decompression_bomb_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadablePhoto, match="too many pixels"):
        decode_photo(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_shrinking_stops_at_the_short_side_and_never_enlarges(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.new("RGB", (300, 100)))
    assert decode_photo(path, max_short_side=20).shape == (20, 60, 3)
    assert decode_photo(path, max_short_side=500).shape == (100, 300, 3)


def test_the_view_is_the_largest_centred_part() -> None:
    photo = np.zeros((4, 8, 3), "uint8")
    photo[:, 2:6] = 200
    assert (evaluation_view(photo, (4, 4)) == 200).all()
    assert (evaluation_view(photo.transpose(1, 0, 2), (4, 4)) == 200).all()


def test_the_view_averages_what_it_shrinks() -> None:
    # A checkerboard of 0 and 200 is an even 100 when halved with antialiasing.
    photo = np.where(np.indices((64, 64)).sum(axis=0) % 2, 200, 0).astype("uint8")
    view = evaluation_view(np.repeat(photo[..., None], 3, axis=2), (16, 16))
    np.testing.assert_allclose(view.astype(int), 100, atol=2)  # rounding in two passes


@pytest.mark.parametrize("size", [(224, 224), (96, 128), (7, 5)])
def test_rounding_never_puts_the_crop_outside_the_photo(size: tuple[int, int]) -> None:
    for height in range(1, 60):
        for width in (1, 3, 29, 57):
            view = evaluation_view(np.zeros((height, width, 3), "uint8"), size)
            assert view.shape == (*size, 3)


def test_batches_are_the_images_in_order(tmp_path: Path) -> None:
    paths = [
        saved(tmp_path / f"{i}.png", Image.new("RGB", (9, 5), (i, 2 * i, 0))) for i in range(11)
    ]
    batches = list(evaluation_batches(paths, (4, 4), batch_size=3))
    assert [len(batch) for batch in batches] == [3, 3, 3, 2]
    single = np.stack([evaluation_image(path, (4, 4)) for path in paths])
    assert (np.concatenate(batches) == single).all()
    assert single[:, 0, 0, 0].tolist() == list(range(11))
