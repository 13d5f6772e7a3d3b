"""EfficientNet-Lite0..4: EfficientNet for integer arithmetic (ReLU6, no squeeze-and-excitation).

It follows https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Layers
have the names of their counterparts in `keras.applications.EfficientNetB*`.
"""

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

BATCHNORM_EPSILON = 1e-3
DROP_CONNECT = 0.2
STEM_FILTERS = 32
HEAD_FILTERS = 1280
PIXEL_MEAN = 127.0
PIXEL_SCALE = 128.0
KERNEL_INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}

WIDTH_AND_DEPTH = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}


@dataclass(frozen=True)
class Block:
    """One inverted residual block; its name is the prefix of its layers' names."""

    name: str
    kernel_size: int
    strides: int
    expand_ratio: int
    filters: int


# kernel size, repeats, filters, expand ratio, strides; the same as in EfficientNetB0
STAGES = [
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
]


def _round_filters(filters: float) -> int:
    """The nearest multiple of 8; the next one if that is more than 10 % smaller."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters else rounded + 8


def blocks_of(variant: int, factor: float = 1.0) -> list[Block]:
    """The blocks of a variant; its first and last stages keep one block each.

    Args:
        factor: of the width of the variant.
    """
    width, depth = WIDTH_AND_DEPTH[variant]
    width *= factor
    blocks = []
    for stage, (kernel_size, repeats, filters, ratio, strides) in enumerate(STAGES):
        scaled = 0 < stage < len(STAGES) - 1
        for repeat in range(math.ceil(depth * repeats) if scaled else repeats):
            name = f"block{stage + 1}{chr(ord('a') + repeat)}_"
            stride = strides if repeat == 0 else 1
            blocks.append(Block(name, kernel_size, stride, ratio, _round_filters(filters * width)))
    return blocks


def lite_features(variant: int, image_size: int, width: float = 1.0) -> keras.Model:
    """EfficientNet-Lite from raw pixels to pooled features, with random weights.

    Args:
        width: factor of the channels of the blocks. Stem and head are not scaled, as in Lite1..4.

    Returns:
        A flat model, (batch, image_size, image_size, 3) in 0..255 -> (batch, 1280).
    """
    image = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / PIXEL_SCALE, offset=-PIXEL_MEAN / PIXEL_SCALE)(image)
    x = _conv(x, STEM_FILTERS, "stem_conv", "stem_bn", kernel_size=3, strides=2)
    x = layers.ReLU(6.0, name="stem_activation")(x)
    blocks = blocks_of(variant, width)
    for number, block in enumerate(blocks):
        x = _apply_block(x, block, drop_rate=DROP_CONNECT * number / len(blocks))
    x = _conv(x, HEAD_FILTERS, "top_conv", "top_bn")
    x = layers.ReLU(6.0, name="top_activation")(x)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(image, x)


def _conv(
    x: Any, filters: int, name: str, batchnorm: str, *, kernel_size: int = 1, strides: int = 1
) -> Any:
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=KERNEL_INITIALIZER,
        name=name,
    )(x)
    return layers.BatchNormalization(epsilon=BATCHNORM_EPSILON, name=batchnorm)(x)


def _apply_block(inputs: Any, block: Block, *, drop_rate: float) -> Any:
    x, name, filters_in = inputs, block.name, inputs.shape[-1]
    if block.expand_ratio != 1:
        filters = filters_in * block.expand_ratio
        x = _conv(x, filters, f"{name}expand_conv", f"{name}expand_bn")
        x = layers.ReLU(6.0, name=f"{name}expand_activation")(x)
    x = layers.DepthwiseConv2D(
        block.kernel_size,
        strides=block.strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=KERNEL_INITIALIZER,
        name=f"{name}dwconv",
    )(x)
    x = layers.BatchNormalization(epsilon=BATCHNORM_EPSILON, name=f"{name}bn")(x)
    x = layers.ReLU(6.0, name=f"{name}activation")(x)
    x = _conv(x, block.filters, f"{name}project_conv", f"{name}project_bn")
    if block.strides == 1 and block.filters == filters_in:
        if drop_rate > 0:
            x = layers.Dropout(drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x)
        x = layers.add([x, inputs], name=f"{name}add")
    return x
