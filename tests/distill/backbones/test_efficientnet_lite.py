"""EfficientNet-Lite has the architecture that was published."""

import keras
import numpy as np
import pytest

from distill.backbones.efficientnet_lite import WIDTH_AND_DEPTH, lite_features
from small_models import SIZE


# Published by tensorflow/tpu, efficientnet/lite.
@pytest.mark.parametrize(
    ("variant", "millions"), [(0, 4.7), (1, 5.4), (2, 6.1), (3, 8.2), (4, 13.0)]
)
def test_it_has_the_published_number_of_parameters(variant, millions):
    model = lite_features(variant, SIZE)
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    classifier = 1280 * 1000 + 1000
    # Published numbers are rounded to 0.1 million.
    assert (trainable + classifier) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("variant", WIDTH_AND_DEPTH)
def test_stem_head_and_the_depth_of_the_outer_stages_are_not_scaled(variant):
    model = lite_features(variant, SIZE)
    names = {layer.name for layer in model.layers}
    assert model.get_layer("stem_conv").filters == 32
    assert model.get_layer("top_conv").filters == 1280
    assert "block1a_dwconv" in names
    assert "block1b_dwconv" not in names
    assert "block7a_dwconv" in names
    assert "block7b_dwconv" not in names


def test_lite4_repeats_and_widens_the_inner_stages():
    # ceil(1.8 * (2, 2, 3, 3, 4)) blocks; 1.4 * (24, 40, 80, 112, 192) to multiples of 8.
    model = lite_features(4, SIZE)
    for stage, repeats, filters in [
        (2, 4, 32),
        (3, 4, 56),
        (4, 6, 112),
        (5, 6, 160),
        (6, 8, 272),
    ]:
        names = [layer.name for layer in model.layers if layer.name.startswith(f"block{stage}")]
        assert len([name for name in names if name.endswith("_dwconv")]) == repeats
        assert model.get_layer(f"block{stage}a_project_conv").filters == filters


def test_it_is_made_of_what_integer_arithmetic_can_do():
    model = lite_features(0, SIZE)
    kinds = {type(layer).__name__ for layer in model.layers}
    assert kinds == {
        "InputLayer",
        "Rescaling",
        "Conv2D",
        "DepthwiseConv2D",
        "BatchNormalization",
        "ReLU",
        "Dropout",
        "Add",
        "GlobalAveragePooling2D",
    }
    assert all(
        layer.max_value == 6 for layer in model.layers if isinstance(layer, keras.layers.ReLU)
    )


def test_pixels_are_centred_on_127_and_divided_by_128():
    rescaling = lite_features(0, SIZE).layers[1]
    # (255 - 127) / 128 and (-1 ... exactly) (0 - 127) / 128
    np.testing.assert_allclose(
        rescaling(np.array([0.0, 127.0, 255.0])), [-127 / 128, 0, 1], atol=1e-6
    )
