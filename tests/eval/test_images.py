from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
