"""EfficientNetB0..7 and EfficientNet-Lite0..4 as entries of `BACKBONES`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import keras
from keras import layers
from pydantic import AfterValidator, Field

from configs.errors import UserError
from configs.registry import nearest
from distill.backbones import BACKBONES, HEAD
from distill.backbones.efficientnet_lite import WIDTH_AND_DEPTH, lite_features
from distill.backbones.imagenet_weights import LITE_VARIANTS, keras_file, load_lite_weights
from distill.backbones.weights_file import SUFFIXES, load_weights_file
from distill.backbones.weights_from_lite import copy_lite_weights, normalize_like_lite

SMALLEST_IMAGE = 32

Dropout = Annotated[float, Field(ge=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


def _efficientnet_b(variant: int) -> Callable[..., keras.Model]:
    """The entry `efficientnet_b<variant>`."""
    name = f"efficientnet_b{variant}"

    def build(
        *,
        image_size: int,
        num_classes: int,
        weights: str | None = "imagenet",
        dropout: Dropout = 0.2,
        batchnorm_momentum: Momentum | None = None,
    ) -> keras.Model:
        """EfficientNetB0..7 of Keras Applications (Tan and Le 2019, arXiv:1905.11946).

        Args:
            weights: imagenet (Keras' own file), lite (B0..2: kernels of EfficientNet-Lite, which
                packages hold), a path, or null to start at random.
            dropout: share of the features dropped before the classifier.
            batchnorm_momentum: share of the running statistics kept at each update. Null means
                0.9 for weights null and lite, and 0.99 otherwise.

        Returns:
            A flat model, (batch, image_size, image_size, 3) in 0..255 -> (batch, num_classes).
        """
        _check_build(name, weight_names, weights, image_size)
        # Never pass `name`: Keras derives the name of the weights file from it.
        features = getattr(keras.applications, f"EfficientNetB{variant}")(
            include_top=False,
            weights=None,
            input_tensor=keras.Input((image_size, image_size, 3), name="image"),
            pooling="avg",
        )
        model = _with_head(features, num_classes, dropout, name)
        if weights is None:
            normalize_like_lite(model)
        elif weights == "imagenet":
            model = load_weights_file(model, keras_file(variant))
        elif weights == "lite":
            copy_lite_weights(model, variant)
        else:
            model = load_weights_file(model, Path(weights))
        return _with_momentum(model, batchnorm_momentum, weights)

    weight_names = ["imagenet", "lite"] if variant in LITE_VARIANTS else ["imagenet"]
    return _checking_weights(build, name, weight_names)


def _efficientnet_lite(variant: int) -> Callable[..., keras.Model]:
    """The entry `efficientnet_lite<variant>`."""
    name = f"efficientnet_lite{variant}"

    def build(
        *,
        image_size: int,
        num_classes: int,
        weights: str | None = "imagenet" if variant in LITE_VARIANTS else None,
        dropout: Dropout = 0.2,
        batchnorm_momentum: Momentum | None = None,
    ) -> keras.Model:
        """EfficientNet-Lite: ReLU6 and no squeeze-and-excitation, for integer arithmetic.

        Args:
            weights: imagenet (Lite0..2, from packages), a path, or null to start at random.
            dropout: share of the features dropped before the classifier.
            batchnorm_momentum: share of the running statistics kept at each update. Null means
                0.9 for weights null, and 0.99 otherwise.

        Returns:
            A flat model, (batch, image_size, image_size, 3) in 0..255 -> (batch, num_classes).
        """
        _check_build(name, weight_names, weights, image_size)
        model = _with_head(lite_features(variant, image_size), num_classes, dropout, name)
        if weights == "imagenet":
            load_lite_weights(model, variant)
        elif weights is not None:
            model = load_weights_file(model, Path(weights))
        return _with_momentum(model, batchnorm_momentum, weights)

    weight_names = ["imagenet"] if variant in LITE_VARIANTS else []
    return _checking_weights(build, name, weight_names)


def _with_head(features: keras.Model, num_classes: int, dropout: float, name: str) -> keras.Model:
    x = layers.Dropout(dropout, name="dropout")(features.output)
    logits = layers.Dense(num_classes, dtype="float32", name=HEAD)(x)
    # Keras Applications give a list of one input.
    return keras.Model(features.inputs[0], logits, name=name)


def _with_momentum(model: keras.Model, momentum: float | None, weights: str | None) -> keras.Model:
    if momentum is None:
        # From scratch and with the kernels of another network, the first statistics are wrong.
        # 0.99 keeps them for hundreds of updates. B0 from lite on flowers at 64 px, after 4 epochs
        # of 35 updates: 62.6 % of 500 photos with 0.99, 68.2 % with 0.9.
        momentum = 0.9 if weights in (None, "lite") else 0.99
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = momentum
    return model


def _checking_weights(
    build: Callable[..., keras.Model], name: str, weight_names: list[str]
) -> Callable[..., keras.Model]:
    """`build` with an annotation that checks the `weights` of a config against these names."""
    check = AfterValidator(partial(_check_weights, name, weight_names))
    build.__annotations__["weights"] = Annotated[str | None, check]
    build.__name__ = name
    return build


def _check_weights(name: str, weight_names: list[str], weights: str | None) -> str | None:
    if weights is None or weights in weight_names or weights.lower().endswith(SUFFIXES):
        return weights
    raise ValueError(
        f"{name} has no such weights.{nearest(weights, [*weight_names, 'null'])} "
        f"Or a path ending in {', '.join(SUFFIXES)}"
    )


def _check_build(name: str, weight_names: list[str], weights: str | None, image_size: int) -> None:
    try:
        _check_weights(name, weight_names, weights)
    except ValueError as error:
        raise UserError(f"weights are {weights!r}: {error}.") from None
    if image_size < SMALLEST_IMAGE:
        raise UserError(f"image_size is {image_size}; {name} needs {SMALLEST_IMAGE} or more.")


for _variant in range(8):
    BACKBONES.add(_efficientnet_b(_variant), name=f"efficientnet_b{_variant}")
for _variant in WIDTH_AND_DEPTH:
    BACKBONES.add(_efficientnet_lite(_variant), name=f"efficientnet_lite{_variant}")
