import numpy as np
import pytest

from compress.int8.calibration import CalibratedModel, calibration_photos
from configs.contract import InputContract
from distill.data.manifest import Examples
from eval.images import evaluation_image
from support import save_photo


@pytest.mark.parametrize(
    ("change", "takes_bytes"),
    [
        (np.round, True),
        (lambda images: images, False),
        (lambda images: np.round(images) - 1, False),
        (lambda images: np.round(images) / 255, False),
    ],
    ids=["whole", "fractions", "negative", "scaled"],
)
def test_bytes_are_whole_numbers_from_0_to_255(tiny_model, images, change, takes_bytes) -> None:
    assert CalibratedModel(tiny_model, change(images)).of_bytes is takes_bytes


def test_calibration_photos_come_from_the_classes_in_turns_and_as_the_model_wants_them(
    tmp_path,
) -> None:
    names = ["0-cat", "1-cat", "2-dog", "3-cat", "4-dog"]
    paths = [save_photo(tmp_path / f"{name}.png", seed=seed) for seed, name in enumerate(names)]
    labels = np.array([0, 0, 1, 0, 1], "int32")
    examples = Examples(names, paths, labels, ["cat", "dog"])
    contract = InputContract(fit="stretch", channels="grey")
    photos = calibration_photos(examples, (8, 12), contract)
    expected = [evaluation_image(paths[index], (8, 12), contract) for index in (0, 2, 1, 4, 3)]
    assert expected[0].shape == (8, 12, 1)
    for _ in range(2):  # every call starts over
        np.testing.assert_allclose(list(photos()), expected, atol=1e-6)
