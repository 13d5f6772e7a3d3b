"""Networks of Keras Applications as entries of `BACKBONES`: one table, one mechanism."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
from keras import layers

from configs.contract import RANGES, Pixels
from distill.backbones.entry import Network, add, published_loader
from distill.backbones.flat import flat, flat_copy

V2_PIXELS = Pixels(mean=(128.0,) * 3, std=(128.0,) * 3)
"""EfficientNetV2S..L: pixel / 128 - 1."""


class Row(NamedTuple):
    """One network: its constructor in `keras.applications`, and what it expects.

    Attributes:
        size: the default input, in pixels.
        pixels: the range that its `preprocess_input` makes, or the layers that it has inside.
        smallest: the smallest legal input, in pixels.
        width: the argument of the constructor that scales the channels, if it has one.
        options: other arguments.
    """

    constructor: str
    size: int
    pixels: Pixels
    smallest: int = 32
    width: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})


TF, TORCH, CAFFE = RANGES["-1..1"], RANGES["torch"], RANGES["caffe"]
OWN_SCALING = {"include_preprocessing": False}
MINIMALISTIC = {"include_preprocessing": False, "minimalistic": True}

FAMILIES: dict[str, dict[str, Row]] = {
    "mobilenet": {
        "mobilenet": Row("MobileNet", 224, TF, width="alpha"),
    },
    "mobilenet_v2": {
        "mobilenet_v2": Row("MobileNetV2", 224, TF, width="alpha"),
    },
    "mobilenet_v3": {
        "mobilenet_v3_small": Row("MobileNetV3Small", 224, TF, width="alpha", options=OWN_SCALING),
        "mobilenet_v3_large": Row("MobileNetV3Large", 224, TF, width="alpha", options=OWN_SCALING),
        "mobilenet_v3_small_minimalistic": Row(
            "MobileNetV3Small", 224, TF, width="alpha", options=MINIMALISTIC
        ),
        "mobilenet_v3_large_minimalistic": Row(
            "MobileNetV3Large", 224, TF, width="alpha", options=MINIMALISTIC
        ),
    },
    "resnet": {
        "resnet50": Row("ResNet50", 224, CAFFE),
        "resnet101": Row("ResNet101", 224, CAFFE),
        "resnet152": Row("ResNet152", 224, CAFFE),
    },
    "resnet_v2": {
        "resnet50_v2": Row("ResNet50V2", 224, TF),
        "resnet101_v2": Row("ResNet101V2", 224, TF),
        "resnet152_v2": Row("ResNet152V2", 224, TF),
    },
    "vgg": {
        "vgg16": Row("VGG16", 224, CAFFE),
        "vgg19": Row("VGG19", 224, CAFFE),
    },
    "xception": {
        "xception": Row("Xception", 299, TF, smallest=71),
    },
    "inception": {
        "inception_v3": Row("InceptionV3", 299, TF, smallest=75),
        "inception_resnet_v2": Row("InceptionResNetV2", 299, TF, smallest=75),
    },
    "densenet": {
        "densenet121": Row("DenseNet121", 224, TORCH),
        "densenet169": Row("DenseNet169", 224, TORCH),
        "densenet201": Row("DenseNet201", 224, TORCH),
    },
    "convnext": {
        f"convnext_{size.lower()}": Row(f"ConvNeXt{size}", 224, TORCH, options=OWN_SCALING)
        for size in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
    "nasnet": {
        "nasnet_mobile": Row("NASNetMobile", 224, TF),
        "nasnet_large": Row("NASNetLarge", 331, TF),
    },
    "efficientnet_v2": {
        **{
            f"efficientnet_v2_b{number}": Row(
                f"EfficientNetV2B{number}", size, TORCH, width="width", options=OWN_SCALING
            )
            for number, size in enumerate((224, 240, 260, 300))
        },
        **{
            f"efficientnet_v2_{size.lower()}": Row(
                f"EfficientNetV2{size}", pixels, V2_PIXELS, width="width", options=OWN_SCALING
            )
            for size, pixels in (("S", 384), ("M", 480), ("L", 480))
        },
    },
}
V2_WIDTH_AND_DEPTH = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4)}
"""The coefficients of EfficientNetV2B0..3; those of S, M and L are 1."""
NO_BATCHNORM = ("vgg", "convnext")


def scaled(image: Any, pixels: Pixels) -> Any:
    """Pixels of 0..255 in the range that a network expects, channels red first."""
    scale = [1 / std for std in pixels.std]
    offset = [-mean / std for mean, std in zip(pixels.mean, pixels.std, strict=True)]
    if len(set(zip(scale, offset, strict=True))) == 1:
        return layers.Rescaling(scale[0], offset[0], name="pixels")(image)
    return layers.Rescaling(scale, offset, name="pixels")(image)


def _features(name: str, row: Row, image_size: int, width: float) -> keras.Model:
    # VGG and ResNet expect blue first. Their first kernels are turned when files are loaded
    # (weights_file.py), so nothing turns the pixels.
    image = keras.Input((image_size, image_size, 3), name="image")
    model = _constructor(row, width)(
        include_top=False,
        weights=None,
        input_tensor=scaled(image, row.pixels),
        input_shape=(image_size, image_size, 3),
        pooling="avg",
        **row.options,
    )
    if row.options == OWN_SCALING and row.constructor.startswith("MobileNetV3"):
        return flat_copy(model, image, stand_in=_gate)
    return flat(model)


def _gate(layer: Any) -> Callable[..., Any] | None:
    """MobileNetV3 computes its gates, relu6(x + 3) / 6, partly by operations that are no layers.

    No tool for graphs of layers can tell what they do. An activation says it.
    """
    if not isinstance(layer, keras.Layer):
        return lambda x, _: x  # x + 3, and the product with 1/6
    if isinstance(layer, layers.ReLU) and layer.max_value == 6:
        return layers.Activation("hard_sigmoid")
    return None


def _constructor(row: Row, width: float) -> Callable[..., keras.Model]:
    if row.width == "width" and width != 1.0:
        return partial(_wide_efficientnet_v2, row.constructor.removeprefix("EfficientNetV2"), width)
    constructor = getattr(keras.applications, row.constructor)
    return partial(constructor, **{row.width: width}) if row.width == "alpha" else constructor


def _wide_efficientnet_v2(size: str, factor: float, **arguments: Any) -> keras.Model:
    from keras.src.applications.efficientnet_v2 import EfficientNetV2

    width, depth = V2_WIDTH_AND_DEPTH.get(size.lower(), (1.0, 1.0))
    return EfficientNetV2(
        width_coefficient=factor * width,
        depth_coefficient=depth,
        default_size=224,
        name=f"efficientnetv2-{size.lower()}",
        **arguments,
    )


for _family, _rows in FAMILIES.items():
    for _name, _row in _rows.items():
        add(
            Network(
                name=_name,
                family=_family,
                features=partial(_features, _name, _row),
                image_size=_row.size,
                smallest_image=_row.smallest,
                loaders={"imagenet": published_loader(_name)},
                has_widths=_row.width is not None,
                has_batchnorm=_family not in NO_BATCHNORM,
                has_drop_path=_family == "efficientnet_v2",
            )
        )
