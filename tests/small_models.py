"""Small backbones that several tests build and compare."""

import keras

from distill.backbones import BACKBONES

SIZE = 32


def build(name="efficientnet_b0", **options):
    return BACKBONES[name](image_size=SIZE, num_classes=3, **options)


def logits_of(model, image):
    return keras.ops.convert_to_numpy(model(image, training=False))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]
