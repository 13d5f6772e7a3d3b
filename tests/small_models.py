"""Small models, images and configs that several tests build."""

from pathlib import Path

import keras
import numpy as np
from keras import layers

from configs.contract import TeacherFile
from configs.schema import Experiment
from configs.schema.choice import Choice
from configs.schema.data import DataConfig
from configs.schema.files import CompressConfig
from configs.schema.training import GivenTeacherConfig, SoftLabelsConfig, StudentConfig
from distill.backbones import BACKBONES

SIZE = 32


def build(name="efficientnet_b0", **options):
    return BACKBONES[name](image_size=SIZE, num_classes=3, **options)


def logits_of(model, image):
    return keras.ops.convert_to_numpy(model(image, training=False))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def settle(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Give BatchNormalization the statistics of `images`. Untrained outputs are near 0 without."""
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def settle_deep(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Give BatchNormalization the statistics of `images`, with every dropout switched off.

    With the statistics of a pass that drops blocks, the outputs of a deep network are in the
    hundreds, and so are differences that should be rounding errors.
    """
    dropouts = [layer for layer in model.layers if isinstance(layer, layers.Dropout)]
    rates = [dropout.rate for dropout in dropouts]
    for dropout in dropouts:
        dropout.rate = 0.0
    settle(model, images)
    for dropout, rate in zip(dropouts, rates, strict=True):
        dropout.rate = rate
    return model


def random_images(num: int, size: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (num, size, size, 3)).astype("float32")


def classifier(*last_layers, input_shape=(8, 8, 3)):
    """Average colours, then `last_layers`."""
    return keras.Sequential(
        [keras.Input(input_shape), layers.GlobalAveragePooling2D(), *last_layers]
    )


def experiment_with(*methods: str) -> Experiment:
    """A config with these methods. Its files do not exist."""
    return Experiment(
        data=DataConfig(path=Path("photos")),
        teacher=GivenTeacherConfig(files=[TeacherFile(path=Path("t.keras"), image_size=32)]),
        soft_labels=SoftLabelsConfig(num_views=1),
        student=StudentConfig(
            backbone=Choice(name="efficientnet_b0"), image_size=32, epochs=1, control=False
        ),
        compress=CompressConfig(methods=[Choice(name=method) for method in methods]),
    )


def dead_model() -> keras.Model:
    """A model whose first kernel is zero, with 16 BatchNormalizations behind it.

    They see no variance, so each multiplies the gradients of the first kernel by 30.
    """
    keras.utils.set_random_seed(0)
    x = pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="dead")(x)
    for _ in range(16):
        x = layers.Conv2D(8, 1, use_bias=False)(layers.BatchNormalization(epsilon=1e-3)(x))
    model = keras.Model(pixels, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    model.get_layer("dead").kernel.assign(np.zeros((3, 3, 3, 8)))
    return model
