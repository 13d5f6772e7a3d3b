"""Features of a classifier: which layer they come from, and which models have none."""

import keras
import numpy as np
import pytest
from keras import layers

from configs.errors import UserError
from distill.backbones import BACKBONES
from distill.features import feature_output, head_of, joined_answers, with_features
from small_models import random_images


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_pooled_features_times_the_head_are_the_logits(name: str) -> None:
    model = BACKBONES[name](image_size=64, num_classes=3, weights=None)
    images = random_images(2, 64)
    both, num_features = with_features(model, "pooled", "it")
    answers = joined_answers(both)(images)
    assert num_features == 1280
    logits, features = answers[:, :3], answers[:, 3:]
    head = head_of(model, "it")
    assert np.allclose(features @ head.kernel + head.bias, logits, atol=1e-4)
    assert np.allclose(joined_answers(model)(images), logits, atol=1e-5)


@pytest.mark.parametrize("size", [64, 256])
def test_attention_is_the_squares_of_the_last_map_summed_over_channels(size: int) -> None:
    model = BACKBONES["efficientnet_lite0"](image_size=size, num_classes=3, weights=None)
    last_map = keras.Model(model.inputs, model.get_layer("top_activation").output)
    images = random_images(2, size)
    squares = (np.asarray(last_map.predict_on_batch(images), "float64") ** 2).sum(axis=-1)
    side = squares.shape[1]
    if side == 8:  # on a grid of 56, each of 8 places is 7 cells wide and each of 7 is 8
        squares = np.repeat(np.repeat(squares, 7, axis=1), 7, axis=2)
        squares = squares.reshape(2, 7, 8, 7, 8).mean(axis=(2, 4))
    expected = squares.reshape(2, -1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = keras.Model(model.inputs, feature_output(model, "attention", "it"))
    assert found.output_shape == (None, {2: 4, 8: 49}[side])
    assert np.allclose(found.predict_on_batch(images), expected, atol=1e-5)


def test_a_map_of_a_single_place_is_refused() -> None:
    model = BACKBONES["efficientnet_lite0"](image_size=32, num_classes=3, weights=None)
    with pytest.raises(UserError, match="the feature map of the student has 1 x 1 places"):
        feature_output(model, "attention", "the student")


@pytest.mark.parametrize(
    "last_layers",
    [
        [layers.Flatten(), layers.Dense(2)],
        [layers.GlobalAveragePooling2D(), layers.Dense(8), layers.Dense(2)],
        [layers.GlobalAveragePooling2D(), layers.BatchNormalization(), layers.Dense(2)],
    ],
    ids=["no pooling", "two dense layers", "a layer between"],
)
def test_a_model_without_pooled_features_is_refused_by_name(last_layers: list) -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3), *last_layers])
    with pytest.raises(UserError, match=r"the features of a\.keras"):
        with_features(model, "pooled", "a.keras")


def test_a_softmax_and_a_dropout_may_follow_the_pooling() -> None:
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(2, activation="softmax"),
        ]
    )
    assert feature_output(model, "pooled", "it").shape == (None, 4)
