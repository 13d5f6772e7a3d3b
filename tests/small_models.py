"""Small backbones that several tests build and compare."""

from pathlib import Path

import keras
import numpy as np
from keras import layers

from configs.schema import (
    Choice,
    CompressConfig,
    DataConfig,
    Experiment,
    GivenTeacherConfig,
    SoftLabelsConfig,
    StudentConfig,
    TeacherFile,
)
from distill.backbones import BACKBONES

SIZE = 32


def build(name="efficientnet_b0", **options):
    return BACKBONES[name](image_size=SIZE, num_classes=3, **options)


def logits_of(model, image):
    return keras.ops.convert_to_numpy(model(image, training=False))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def settle(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Give BatchNormalization the statistics of `images`: untrained outputs are else near 0."""
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def settle_deep(model: keras.Model, images: np.ndarray) -> keras.Model:
    """The same with no block dropped.

    With the statistics of a pass that drops some, the outputs of a deep network are in the
    hundreds, and what should be rounding errors are, too.
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
