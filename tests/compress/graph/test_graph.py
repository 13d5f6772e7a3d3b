import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.graph import copy_of, image_size_of
from configs.errors import UserError
from small_models import classifier


def two_inputs():
    one, two = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([one, two], layers.Flatten()(layers.Add()([one, two])))


def two_outputs():
    one = keras.Input((8, 8, 3))
    return keras.Model(one, [layers.Flatten()(one), layers.GlobalAveragePooling2D()(one)])


def test_image_size_is_height_then_width():
    assert image_size_of(classifier(layers.Dense(3), input_shape=(8, 12, 3))) == (8, 12)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (two_inputs, "2 inputs"),
        (two_outputs, "2 outputs"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]), r"\(None, 4\)"),
        (lambda: classifier(layers.Dense(2), input_shape=(None, None, 3)), "height and width"),
        (lambda: classifier(layers.Dense(2), input_shape=(8, 8, 1)), r"\(None, 8, 8, 1\)"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 1)]), "its output"),
        (lambda: classifier(layers.Dense(2, dtype="mixed_float16")), "compute in float16"),
        (lambda: keras.Sequential([layers.Dense(2)]), "0 inputs"),
        (lambda: keras.Model(), "0 inputs"),
    ],
)
def test_what_is_no_image_classifier_is_refused(model, reason):
    with pytest.raises(UserError, match=reason):
        image_size_of(model())


def test_a_copy_computes_the_same_and_shares_nothing():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).uniform(0, 9, (32, 8, 8, 3)).astype("float32"))
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), normalization, layers.Flatten(), layers.Dense(2, trainable=False)]
    )
    before = model(np.ones((1, 8, 8, 3))).numpy()
    copy = copy_of(model)
    np.testing.assert_array_equal(copy(np.ones((1, 8, 8, 3))), before)
    assert not copy.layers[-1].trainable
    copy.layers[-1].set_weights([np.zeros((192, 2)), np.zeros(2)])
    np.testing.assert_array_equal(model(np.ones((1, 8, 8, 3))), before)
