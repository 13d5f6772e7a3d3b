from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.contract import InputContract
from eval.images import evaluation_batches, evaluation_image, evaluation_view


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
    paths = [tmp_path / f"{i}.png" for i in range(11)]
    for i, path in enumerate(paths):
        Image.new("RGB", (9, 5), (i, 2 * i, 0)).save(path)
    batches = list(evaluation_batches(paths, (4, 4), batch_size=3))
    assert [len(batch) for batch in batches] == [3, 3, 3, 2]
    single = np.stack([evaluation_image(path, (4, 4)) for path in paths])
    assert (np.concatenate(batches) == single).all()
    assert single[:, 0, 0, 0].tolist() == list(range(11))


def test_stretching_keeps_the_edges_of_the_photo() -> None:
    photo = np.zeros((4, 8, 3), "uint8")
    photo[:, :2] = 200  # a quarter of the width
    view = evaluation_view(photo, (4, 4), InputContract(fit="stretch", interpolation="area"))
    assert view[0, :, 0].tolist() == [200, 0, 0, 0]
    assert (evaluation_view(photo, (4, 4)) == 0).all()  # the crop leaves the edges out


def test_padding_puts_black_borders_of_equal_width() -> None:
    photo = np.full((4, 8, 3), 200, "uint8")
    view = evaluation_view(photo, (8, 8), InputContract(fit="pad"))
    assert view[:, 0, 0].tolist() == [0, 0, 200, 200, 200, 200, 0, 0]
    view = evaluation_view(photo.transpose(1, 0, 2), (8, 8), InputContract(fit="pad"))
    assert view[0, :, 0].tolist() == [0, 0, 200, 200, 200, 200, 0, 0]


def test_photos_of_the_shape_of_the_input_are_fitted_alike() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype("uint8")
    views = [
        evaluation_view(photo, (6, 6), InputContract(fit=fit)) for fit in ("crop", "stretch", "pad")
    ]
    assert (views[0] == views[1]).all()
    assert (views[0] == views[2]).all()


def test_a_grey_view_has_one_channel() -> None:
    photo = np.zeros((4, 4, 3), "uint8")
    photo[...] = (100, 150, 200)
    view = evaluation_view(photo, (2, 2), InputContract(channels="grey"))
    assert view.shape == (2, 2, 1)
    # ITU-R BT.601: 0.299 * 100 + 0.587 * 150 + 0.114 * 200
    assert view[0, 0, 0] == 141
    grey = np.full((4, 4, 3), 77, "uint8")
    assert (evaluation_view(grey, (4, 4), InputContract(channels="grey")) == 77).all()


def test_interpolations_differ_and_nearest_invents_no_colour() -> None:
    photo = np.zeros((8, 8, 3), "uint8")
    photo[::2] = 255
    views = {
        name: evaluation_view(photo, (3, 3), InputContract(interpolation=name))
        for name in ("nearest", "bilinear", "bicubic", "lanczos", "area")
    }
    assert set(np.unique(views["nearest"])) <= {0, 255}
    assert len({view.tobytes() for view in views.values()}) >= 4
