import keras
import numpy as np
import pytest

from compress.graph.replay import copy_model
from compress.recipes.conversion import Conversion
from configs.errors import UserError


def conversion_of(model: keras.Model, images: np.ndarray) -> Conversion:
    return Conversion(model, lambda: iter(images))


def test_recipes_of_one_model_share_its_trace_and_its_calibration(tiny_model, images) -> None:
    conversion = conversion_of(tiny_model, images)
    assert conversion.traced.function("logits") is conversion.traced.function("logits")
    first = conversion.calibrated(4)
    assert first.images.shape == (4, 16, 16, 3)
    second = conversion.calibrated(4)
    assert second is first
    assert second.sensitivities is first.sensitivities
    assert second.traced.function("logits") is first.traced.function("logits")


@pytest.mark.parametrize(("num_images", "kernel_steps"), [(5, 127), (4, 64)])
def test_recipes_with_other_needs_have_a_calibration_of_their_own(
    tiny_model, images, num_images, kernel_steps
) -> None:
    conversion = conversion_of(tiny_model, images)
    first = conversion.calibrated(4)
    assert conversion.calibrated(num_images, kernel_steps) is not first
    assert conversion.calibrated(4) is first


def test_changed_weights_are_traced_and_calibrated_again(tiny_model, images) -> None:
    model = copy_model(tiny_model)
    conversion = conversion_of(model, images)
    function, calibrated = conversion.traced.function("logits"), conversion.calibrated(4)
    kernel = model.get_layer("logits").kernel
    kernel.assign(kernel * 2)
    assert conversion.traced.function("logits") is not function
    renewed = conversion.calibrated(4)
    assert renewed is not calibrated
    expected = keras.ops.convert_to_numpy(model(images))
    outputs = keras.ops.convert_to_numpy(renewed.model(images))
    # The biases of the calibrated model are corrected for rounded kernels.
    np.testing.assert_allclose(outputs, expected, atol=0.05 * np.abs(expected).max())


def test_two_conversions_of_one_model_share_nothing(tiny_model, images) -> None:
    first, second = conversion_of(tiny_model, images), conversion_of(tiny_model, images[::-1])
    assert first.calibrated(4) is not second.calibrated(4)
    np.testing.assert_array_equal(second.calibrated(4).images, images[::-1][:4])


def test_without_photos_there_is_no_calibration(tiny_model) -> None:
    with pytest.raises(UserError, match="needs calibration photos"):
        Conversion(tiny_model).calibrated(4)
