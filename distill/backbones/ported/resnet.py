"""ResNet-18 and 34 as torchvision builds them (He et al. 2015, arXiv:1512.03385), in Keras."""

from functools import partial
from typing import Any

import keras
from keras import layers

from configs.contract import RANGES
from distill.backbones.applications import scaled
from distill.backbones.entry import Network, add, published_loader
from distill.backbones.ported.arrays import ALL_SUFFIXES, load_file

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
"""Blocks of each of the four stages."""
FILTERS = (64, 128, 256, 512)
EPSILON = 1e-5
INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"},
}
# 1 minus the momentum of PyTorch, which weighs the new value.
MOMENTUM = 0.9


def resnet_features(blocks: tuple[int, ...], image_size: int, width: float) -> keras.Model:
    """A ResNet of basic blocks, from pixels of 0..255 to pooled features, with random weights."""
    image = keras.Input((image_size, image_size, 3), name="image")
    x = scaled(image, RANGES["torch"])
    x = layers.ReLU(name="relu")(convolution(x, FILTERS[0], 7, 2, "conv1", "bn1"))
    # Behind the ReLU, zeros are as good as the minus infinity that PyTorch pads with.
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for stage, (filters, repeats) in enumerate(zip(FILTERS, blocks, strict=True), start=1):
        for number in range(repeats):
            strides = 2 if number == 0 and stage > 1 else 1
            x = _basic_block(x, filters, strides, f"layer{stage}_{number}")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(image, x)


def _basic_block(inputs: Any, filters: int, strides: int, name: str) -> Any:
    x = convolution(inputs, filters, 3, strides, f"{name}_conv1", f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = convolution(x, filters, 3, 1, f"{name}_conv2", f"{name}_bn2")
    if strides != 1 or inputs.shape[-1] != filters:
        shortcut = f"{name}_downsample"
        inputs = convolution(inputs, filters, 1, strides, f"{shortcut}_0", f"{shortcut}_1")
    x = layers.Add(name=f"{name}_add")([x, inputs])
    return layers.ReLU(name=f"{name}_relu2")(x)


def convolution(
    x: Any, filters: int | None, size: int, strides: int, name: str, batchnorm: str
) -> Any:
    """A convolution and its BatchNormalization, padded by the same number on all sides.

    Args:
        filters: None for a depthwise convolution.
    """
    if strides > 1 and size > 1:
        # "same" would pad less at the top and left.
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    padding = "same" if strides == 1 else "valid"
    if filters is None:
        x = layers.DepthwiseConv2D(
            size,
            strides=strides,
            padding=padding,
            use_bias=False,
            depthwise_initializer=INITIALIZER,
            name=name,
        )(x)
    else:
        x = layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding=padding,
            use_bias=False,
            kernel_initializer=INITIALIZER,
            name=name,
        )(x)
    return layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, name=batchnorm)(x)


for _name, _blocks in BLOCKS.items():
    add(
        Network(
            name=_name,
            family="resnet_torch",
            features=partial(resnet_features, _blocks),
            image_size=224,
            loaders={"imagenet": published_loader(_name, load_file)},
            load_file=load_file,
            suffixes=ALL_SUFFIXES,
        )
    )
