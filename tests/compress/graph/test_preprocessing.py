"""Where the scaling of pixels moves, and what is exact afterwards."""

import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.preprocessing import Offset
from compress.graph.simplify import simplify
from small_models import random_images, settle

SIZE = 8
BY_POSITION = np.linspace(1, 200, SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
IMAGENET = {"mean": [0.485, 0.456, 0.406], "variance": [0.229**2, 0.224**2, 0.225**2]}


def centring() -> list[keras.Layer]:
    return [layers.Rescaling(1 / 127.5, offset=-1)]


def classifier(preprocessing, *first) -> keras.Model:
    """`preprocessing`, then the first layers, then an activation and three answers."""
    keras.utils.set_random_seed(1)
    pixels = x = keras.Input((SIZE, SIZE, 3), name="image")
    for layer in (*preprocessing, *first, layers.Activation("silu")):
        x = layer(x)
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, layers.Dense(3)(x))


def stem(**options) -> keras.Layer:
    # The bias is not 0, so that it shows if it is lost.
    return layers.Conv2D(4, **{"kernel_size": 3, "bias_initializer": "normal"} | options)


def assert_same_answers(simpler: keras.Model, model: keras.Model) -> None:
    images = random_images(4, SIZE)
    expected = model.predict_on_batch(images)
    # Sums of a hundred products of pixels and weights, in float32.
    np.testing.assert_allclose(simpler.predict_on_batch(images), expected, rtol=1e-4, atol=1e-5)


def assert_no_scaling(model: keras.Model) -> None:
    kinds = (layers.Rescaling, layers.Normalization, layers.BatchNormalization)
    assert not [layer.name for layer in model.layers if isinstance(layer, kinds)]


def offsets(model: keras.Model) -> list[list[float]]:
    return [layer.offset for layer in model.layers if isinstance(layer, Offset)]


PREPROCESSING = {
    "scaled": lambda: [layers.Rescaling(1 / 255)],
    "centred": centring,
    "as EfficientNet": lambda: [
        layers.Rescaling(1 / 255),
        layers.Normalization(**IMAGENET),
        layers.Rescaling([1.1, 0.9, 1.0]),
    ],
    "inverted": lambda: [layers.Normalization(mean=0.5, variance=4.0, axis=None, invert=True)],
    "normalized by statistics": lambda: [layers.BatchNormalization()],
    "behind a dropout": lambda: [layers.Dropout(0.1), *centring(), layers.Dropout(0.1)],
}


@pytest.mark.parametrize("preprocessing", PREPROCESSING)
@pytest.mark.parametrize(
    "first",
    [
        stem(),
        stem(use_bias=False),
        stem(activation="relu", use_bias=False),
        stem(kernel_size=1, padding="same"),
        stem(kernel_size=4, strides=4, padding="same"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        [layers.Flatten(), layers.Dense(4)],
        [stem(use_bias=False), layers.BatchNormalization()],
    ],
    ids=["plain", "no bias", "activated", "1x1", "patches", "depthwise", "dense", "normalized"],
)
def test_without_padding_nothing_is_left_before_the_first_kernel(preprocessing, first) -> None:
    first = first if isinstance(first, list) else [first]
    first = [type(layer).from_config(layer.get_config()) for layer in first]
    model = classifier(PREPROCESSING[preprocessing](), *first)
    settle(model, random_images(4, SIZE))
    simpler = simplify(model)
    assert_no_scaling(simpler)
    assert offsets(simpler) == []
    assert_same_answers(simpler, model)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        ([layers.Rescaling(1 / 255)], []),
        ([layers.Rescaling(1 / 127.5, offset=-1)], [[-128.0] * 3]),
        ([layers.Normalization(mean=127, variance=4, axis=None)], [[-127.0] * 3]),
        ([layers.Normalization(mean=[127.4, 127.5, 127.8], variance=[4, 5, 6])], [[-128.0] * 3]),
        # Pixels in 0..1: half a grey level would be half of the range.
        ([layers.Rescaling(2, offset=-1)], [[-0.5] * 3]),
        # No common whole number: rounding it would gain nothing.
        (
            [layers.Rescaling(1 / 255), layers.Normalization(**IMAGENET)],
            [[-123.675, -116.28, -103.53]],
        ),
    ],
    ids=["scaled", "centred", "whole", "about one mean", "from 0..1", "ImageNet"],
)
@pytest.mark.parametrize("explicit", [True, False], ids=["ZeroPadding2D", "same"])
def test_before_padding_a_whole_number_is_subtracted(preprocessing, expected, explicit) -> None:
    preprocessing = [type(layer).from_config(layer.get_config()) for layer in preprocessing]
    first = [layers.ZeroPadding2D(1), stem()] if explicit else [stem(padding="same")]
    model = classifier(preprocessing, *first)
    simpler = simplify(model)
    assert_no_scaling(simpler)
    np.testing.assert_allclose(offsets(simpler), expected, rtol=1e-5)
    is_rounded = expected == [[-128.0] * 3]
    if not is_rounded:
        assert_same_answers(simpler, model)


def test_only_the_border_changes_and_counts_as_pixels_of_the_whole_number() -> None:
    pixels = keras.Input((SIZE, SIZE, 3), name="image")
    features = stem(padding="same", name="stem")(layers.Rescaling(1 / 127.5, offset=-1)(pixels))
    flat = layers.Flatten()(features)
    model = keras.Model(pixels, flat)
    unpadded = keras.Input((SIZE + 2, SIZE + 2, 3))
    valid = stem(name="valid")
    reference = keras.Model(unpadded, valid(layers.Rescaling(1 / 127.5, offset=-1)(unpadded)))
    valid.set_weights(model.get_layer("stem").get_weights())
    images = random_images(4, SIZE)
    # In the model the border is 0, which is a grey level of 127.5; here it is 128.
    around = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    result = simplify(model).predict_on_batch(images).reshape(4, SIZE, SIZE, -1)
    np.testing.assert_allclose(result, reference.predict_on_batch(around), atol=1e-5)
    before = model.predict_on_batch(images).reshape(result.shape)
    np.testing.assert_allclose(result[:, 1:-1, 1:-1], before[:, 1:-1, 1:-1], atol=1e-5)


def test_two_kernels_that_read_the_pixels_take_the_scaling_both() -> None:
    keras.utils.set_random_seed(1)
    pixels = keras.Input((SIZE, SIZE, 3), name="image")
    scaled = layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    branches = [stem(use_bias=False)(scaled), layers.Conv2D(4, 3, activation="relu")(scaled)]
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()(branches))
    model = keras.Model(pixels, layers.Dense(3)(x))
    simpler = simplify(model)
    assert_no_scaling(simpler)
    assert_same_answers(simpler, model)


@pytest.mark.parametrize(
    "scaling",
    [
        layers.Rescaling(0.0, offset=1.0),
        layers.Normalization(axis=(1, 2, 3), mean=BY_POSITION, variance=BY_POSITION),
    ],
    ids=["that is 0", "by position"],
)
def test_a_scaling_that_no_kernel_can_take_stays(scaling) -> None:
    model = classifier([type(scaling).from_config(scaling.get_config())], stem())
    simpler = simplify(model)
    assert type(scaling) in map(type, simpler.layers)
    assert_same_answers(simpler, model)
