import keras
import numpy as np
import pytest

from compress.graph.graph import copy_of
from compress.int8.calibration import calibrated
from configs.errors import UserError


def test_recipes_of_one_model_share_its_calibration(tiny_model, images) -> None:
    model = copy_of(tiny_model)
    first = calibrated(model, lambda: iter(images), 4)
    assert first.images.shape == (4, 16, 16, 3)
    assert calibrated(model, lambda: iter(images), 4) is first
    assert first.sensitivities is first.sensitivities


@pytest.mark.parametrize("change", ["weights", "images", "number", "model", "steps"])
def test_another_model_or_other_images_are_a_miss(tiny_model, images, change) -> None:
    model = copy_of(tiny_model)
    first = calibrated(model, lambda: iter(images), 4)
    some, number, steps = images, 4, 127
    if change == "weights":
        kernel = model.get_layer("logits").kernel
        kernel.assign(kernel * 2)
    elif change == "images":
        some = images[::-1]
    elif change == "number":
        number = 5
    elif change == "steps":
        steps = 64
    else:
        model = copy_of(model)
    second = calibrated(model, lambda: iter(some), number, steps)
    assert second is not first
    expected = keras.ops.convert_to_numpy(model(images))
    found = keras.ops.convert_to_numpy(second.model(images))
    # Biases are corrected for rounded kernels.
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_bytes_are_whole_numbers_from_0_to_255(tiny_model, images) -> None:
    for some, expected in (
        (np.round(images), True),
        (images, False),
        (np.round(images) - 1, False),
        (np.round(images) / 255, False),
    ):
        assert calibrated(tiny_model, lambda some=some: iter(some), 8).of_bytes is expected


def test_without_images_there_is_no_calibration(tiny_model) -> None:
    with pytest.raises(UserError, match="needs calibration photos"):
        calibrated(tiny_model, lambda: iter(()), 4)
