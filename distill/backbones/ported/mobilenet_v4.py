"""MobileNetV4 (convolutions only) small and medium, in Keras, with the layer names of timm.

Qin et al. 2024, arXiv:2404.10518, tables 11 and 12. Weights are those of timm
(https://github.com/huggingface/pytorch-image-models).
"""

from functools import partial
from typing import Any, NamedTuple

import keras
from keras import layers

from configs.contract import RANGES
from distill.backbones.applications import scaled
from distill.backbones.entry import Network, add, published_loader
from distill.backbones.ported.arrays import ALL_SUFFIXES, load_file
from distill.backbones.ported.resnet import convolution

STEM_FILTERS = 32
LAST_FILTERS = 960
HEAD_FILTERS = 1280


class Conv(NamedTuple):
    """A convolution with BatchNormalization and ReLU."""

    size: int
    strides: int
    filters: int


class Fused(NamedTuple):
    """A convolution that expands the channels, and one of 1 x 1 that projects them."""

    size: int
    strides: int
    ratio: int
    filters: int


class Inverted(NamedTuple):
    """A universal inverted bottleneck.

    Attributes:
        start: the size of the depthwise kernel before the expansion; 0 for none.
        middle: that of the one behind it.
    """

    start: int
    middle: int
    strides: int
    ratio: int
    filters: int


Block = Conv | Fused | Inverted
STAGES: dict[str, list[list[Block]]] = {
    "small": [
        [Conv(3, 2, 32), Conv(1, 1, 32)],
        [Conv(3, 2, 96), Conv(1, 1, 64)],
        [Inverted(5, 5, 2, 3, 96), *[Inverted(0, 3, 1, 2, 96)] * 4, Inverted(3, 0, 1, 4, 96)],
        [
            Inverted(3, 3, 2, 6, 128),
            Inverted(5, 5, 1, 4, 128),
            Inverted(0, 5, 1, 4, 128),
            Inverted(0, 5, 1, 3, 128),
            *[Inverted(0, 3, 1, 4, 128)] * 2,
        ],
        [Conv(1, 1, LAST_FILTERS)],
    ],
    "medium": [
        [Fused(3, 2, 4, 48)],
        [Inverted(3, 5, 2, 4, 80), Inverted(3, 3, 1, 2, 80)],
        [
            Inverted(3, 5, 2, 6, 160),
            *[Inverted(3, 3, 1, 4, 160)] * 2,
            Inverted(3, 5, 1, 4, 160),
            Inverted(3, 3, 1, 4, 160),
            Inverted(3, 0, 1, 4, 160),
            Inverted(0, 0, 1, 2, 160),
            Inverted(3, 0, 1, 4, 160),
        ],
        [
            Inverted(5, 5, 2, 6, 256),
            Inverted(5, 5, 1, 4, 256),
            *[Inverted(3, 5, 1, 4, 256)] * 2,
            Inverted(0, 0, 1, 4, 256),
            Inverted(3, 0, 1, 4, 256),
            Inverted(3, 5, 1, 2, 256),
            Inverted(5, 5, 1, 4, 256),
            *[Inverted(0, 0, 1, 4, 256)] * 2,
            Inverted(5, 0, 1, 2, 256),
        ],
        [Conv(1, 1, LAST_FILTERS)],
    ],
}
SIZES = {"small": 224, "medium": 256}


def mobilenet_v4_features(size: str, image_size: int, width: float) -> keras.Model:
    """MobileNetV4 from pixels of 0..255 to its last features, with random weights."""
    image = keras.Input((image_size, image_size, 3), name="image")
    x = scaled(image, RANGES["torch"])
    x = _active(convolution(x, STEM_FILTERS, 3, 2, "conv_stem", "bn1"), "bn1")
    for stage, blocks in enumerate(STAGES[size]):
        for number, block in enumerate(blocks):
            x = _apply(x, block, f"blocks_{stage}_{number}")
    x = layers.GlobalAveragePooling2D(keepdims=True, name="global_pool")(x)
    x = _active(convolution(x, HEAD_FILTERS, 1, 1, "conv_head", "norm_head"), "norm_head")
    return keras.Model(image, layers.Flatten(name="flatten")(x))


def _apply(inputs: Any, block: Block, name: str) -> Any:
    if isinstance(block, Conv):
        x = convolution(
            inputs, block.filters, block.size, block.strides, f"{name}_conv", f"{name}_bn1"
        )
        return _active(x, f"{name}_bn1")
    channels = inputs.shape[-1]
    if isinstance(block, Fused):
        x = convolution(
            inputs, channels * block.ratio, block.size, block.strides,
            f"{name}_conv_exp", f"{name}_bn1",
        )  # fmt: skip
        x = _active(x, f"{name}_bn1")
        x = convolution(x, block.filters, 1, 1, f"{name}_conv_pwl", f"{name}_bn2")
    else:
        x = _inverted(inputs, block, name)
    if block.strides == 1 and block.filters == channels:
        return layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _inverted(x: Any, block: Inverted, name: str) -> Any:
    def part(x: Any, filters: int | None, size: int, strides: int, part_name: str) -> Any:
        prefix = f"{name}_{part_name}"
        return convolution(x, filters, size, strides, f"{prefix}_conv", f"{prefix}_bn")

    expanded = x.shape[-1] * block.ratio
    if block.start:
        # Without a kernel in the middle, this one takes the strides.
        x = part(x, None, block.start, 1 if block.middle else block.strides, "dw_start")
    x = _active(part(x, expanded, 1, 1, "pw_exp"), f"{name}_pw_exp")
    if block.middle:
        x = part(x, None, block.middle, block.strides, "dw_mid")
        x = _active(x, f"{name}_dw_mid")
    return part(x, block.filters, 1, 1, "pw_proj")


def _active(x: Any, name: str) -> Any:
    return layers.ReLU(name=f"{name}_relu")(x)


for _size in STAGES:
    _name = f"mobilenet_v4_{_size}"
    add(
        Network(
            name=_name,
            family="mobilenet_v4",
            features=partial(mobilenet_v4_features, _size),
            image_size=SIZES[_size],
            loaders={"imagenet": published_loader(_name, load_file)},
            load_file=load_file,
            suffixes=ALL_SUFFIXES,
        )
    )
