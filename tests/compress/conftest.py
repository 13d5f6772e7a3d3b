"""Small classifiers whose outputs are as large as those of trained ones."""

import keras
import numpy as np
import pytest
from keras import layers

from small_models import random_images, settle


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return random_images(8, 16)


@pytest.fixture(scope="session")
def tiny_model(images: np.ndarray) -> keras.Model:
    """A classifier of four classes at 16 px, with every kind of layer that EfficientNet has."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3), name="image")
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])(x)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(x)
    x = layers.Activation("swish")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Conv2D(8, 1, name="project")(layers.Multiply()([x, gate]))
    x = layers.Add()([x, layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))(x)])
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(16, activation="silu", name="hidden")(x)
    logits = layers.Dense(4, name="logits")(x)
    return settle(keras.Model(pixels, logits, name="tiny"), images)


@pytest.fixture(scope="session")
def efficientnet() -> keras.Model:
    """EfficientNetB0 at 32 px with five classes, with random weights."""
    keras.utils.set_random_seed(1)
    features = keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), include_top=False, pooling="avg"
    )
    x = layers.Dropout(0.2)(features.output)
    model = keras.Model(features.inputs[0], layers.Dense(5, name="logits")(x))
    return settle(model, random_images(64, 32))
