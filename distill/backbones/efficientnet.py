"""EfficientNetB0..7 and EfficientNet-Lite0..4 as entries of `BACKBONES`."""

from collections.abc import Callable
from functools import partial

import keras
from keras.src.applications.efficientnet import EfficientNet

from distill.backbones.efficientnet_lite import WIDTH_AND_DEPTH, lite_features
from distill.backbones.entry import Load, Network, add, published_loader
from distill.backbones.weights.from_lite import copy_lite_weights, normalize_like_lite
from distill.backbones.weights.lite_package import (
    LITE_VARIANTS,
    find_lite_file,
    load_lite_weights,
)

B_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)
B_WIDTH_AND_DEPTH = (
    (1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1),
)  # fmt: skip
LITE_SIZES = (224, 240, 260, 280, 300)


def _b_features(variant: int, image_size: int, width: float) -> keras.Model:
    """EfficientNetB0..7 of Keras Applications (Tan and Le 2019, arXiv:1905.11946)."""
    factor, depth = B_WIDTH_AND_DEPTH[variant]
    return EfficientNet(
        width_coefficient=factor * width,
        depth_coefficient=depth,
        default_size=B_SIZES[variant],
        include_top=False,
        weights=None,
        input_tensor=keras.Input((image_size, image_size, 3), name="image"),
        pooling="avg",
    )


def _loading(load: Callable[[keras.Model, int], None], variant: int) -> Load:
    def loaded(model: keras.Model, width: float) -> keras.Model:
        load(model, variant)
        return model

    return loaded


for _variant in range(8):
    _name = f"efficientnet_b{_variant}"
    _loaders = {"imagenet": published_loader(_name)}
    if _variant in LITE_VARIANTS:
        # B0..2 can start from the kernels of EfficientNet-Lite, which packages hold.
        _loaders["lite"] = _loading(copy_lite_weights, _variant)
    add(
        Network(
            name=_name,
            family="efficientnet",
            features=partial(_b_features, _variant),
            image_size=B_SIZES[_variant],
            loaders=_loaders,
            from_scratch=normalize_like_lite,
            from_another_network=("lite",),
            has_drop_path=True,
            has_widths=True,
        )
    )
for _variant in WIDTH_AND_DEPTH:
    _is_published = _variant in LITE_VARIANTS
    add(
        Network(
            name=f"efficientnet_lite{_variant}",
            family="efficientnet_lite",
            features=partial(lite_features, _variant),
            image_size=LITE_SIZES[_variant],
            loaders={"imagenet": _loading(load_lite_weights, _variant)} if _is_published else {},
            find_imagenet=partial(find_lite_file, _variant),
            has_widths=True,
        )
    )
