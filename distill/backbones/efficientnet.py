"""`BACKBONES`: name -> Keras model from raw pixels to logits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import keras
from keras import layers
from pydantic import AfterValidator, Field

from configs.errors import UserError
from configs.registry import nearest
from distill.backbones import BACKBONES
from distill.backbones.efficientnet_lite import (
    PUBLISHED,
    WIDTH_AND_DEPTH,
    lite_features,
    load_imagenet_weights,
)
from distill.backbones.weights import (
    SUFFIXES,
    imagenet_file,
    load_lite_twin,
    load_path,
    see_pixels_as_lite,
)

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
                come as packages), a path, or null to start at random.
            dropout: share of the features dropped before the classifier.
            batchnorm_momentum: share of the running statistics kept at each step; null is 0.99,
                and 0.9 for weights null and lite.

        Returns:
            A flat model, (batch, image_size, image_size, 3) in 0..255 -> (batch, num_classes).
        """
        _check_build(name, known, weights, image_size)
        # Never pass `name`: the name of the weights file follows it.
        features = getattr(keras.applications, f"EfficientNetB{variant}")(
            include_top=False,
            weights=None,
            input_tensor=keras.Input((image_size, image_size, 3), name="image"),
            pooling="avg",
        )
        model = _with_head(features, num_classes, dropout, name)
        if weights is None:
            see_pixels_as_lite(model)
        elif weights == "imagenet":
            model = load_path(model, imagenet_file(variant))
        elif weights == "lite":
            load_lite_twin(model, variant)
        else:
            model = load_path(model, Path(weights))
        return _with_momentum(model, batchnorm_momentum, weights)

    known = ["imagenet", "lite"] if variant in PUBLISHED else ["imagenet"]
    return _checking_weights(build, name, known)


def _efficientnet_lite(variant: int) -> Callable[..., keras.Model]:
    """The entry `efficientnet_lite<variant>`."""
    name = f"efficientnet_lite{variant}"

    def build(
        *,
        image_size: int,
        num_classes: int,
        weights: str | None = "imagenet" if variant in PUBLISHED else None,
        dropout: Dropout = 0.2,
        batchnorm_momentum: Momentum | None = None,
    ) -> keras.Model:
        """EfficientNet-Lite: ReLU6 and no squeeze-and-excitation, for integer arithmetic.

        Args:
            weights: imagenet (Lite0..2, which come as packages), a path, or null to start at
                random.
            dropout: share of the features dropped before the classifier.
            batchnorm_momentum: share of the running statistics kept at each step; null is 0.99,
                and 0.9 for weights null.

        Returns:
            A flat model, (batch, image_size, image_size, 3) in 0..255 -> (batch, num_classes).
        """
        _check_build(name, known, weights, image_size)
        model = _with_head(lite_features(variant, image_size), num_classes, dropout, name)
        if weights == "imagenet":
            load_imagenet_weights(model, variant)
        elif weights is not None:
            model = load_path(model, Path(weights))
        return _with_momentum(model, batchnorm_momentum, weights)

    known = ["imagenet"] if variant in PUBLISHED else []
    return _checking_weights(build, name, known)


def _with_head(features: keras.Model, num_classes: int, dropout: float, name: str) -> keras.Model:
    x = layers.Dropout(dropout, name="dropout")(features.output)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    # Keras Applications give a list of one input.
    return keras.Model(features.inputs[0], logits, name=name)


def _with_momentum(model: keras.Model, momentum: float | None, weights: str | None) -> keras.Model:
    if momentum is None:
        # From scratch and with the kernels of another network, the first statistics are wrong, and
        # 0.99 remembers them for hundreds of steps. B0 from lite after 4 epochs of 35 steps on
        # flowers at 64 px: 62.6 % of 500 photos with 0.99 and 68.2 % with 0.9.
        momentum = 0.9 if weights in (None, "lite") else 0.99
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = momentum
    return model


def _checking_weights(
    build: Callable[..., keras.Model], name: str, known: list[str]
) -> Callable[..., keras.Model]:
    """`build`, with the weights it knows in its annotation, so that a config is checked by them."""
    check = AfterValidator(partial(_check_weights, name, known))
    build.__annotations__["weights"] = Annotated[str | None, check]
    build.__name__ = name
    return build


def _check_weights(name: str, known: list[str], weights: str | None) -> str | None:
    if weights is None or weights in known or weights.endswith(SUFFIXES):
        return weights
    raise ValueError(
        f"{name} has no such weights.{nearest(weights, [*known, 'null'])} "
        f"Or a path ending in {', '.join(SUFFIXES)}"
    )


def _check_build(name: str, known: list[str], weights: str | None, image_size: int) -> None:
    try:
        _check_weights(name, known, weights)
    except ValueError as error:
        raise UserError(f"weights are {weights!r}: {error}.") from None
    if image_size < SMALLEST_IMAGE:
        raise UserError(f"image_size is {image_size}; {name} needs {SMALLEST_IMAGE} or more.")


for _variant in range(8):
    BACKBONES.add(_efficientnet_b(_variant), name=f"efficientnet_b{_variant}")
for _variant in WIDTH_AND_DEPTH:
    BACKBONES.add(_efficientnet_lite(_variant), name=f"efficientnet_lite{_variant}")
