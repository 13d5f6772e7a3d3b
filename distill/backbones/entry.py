"""Entries of `BACKBONES`: one mechanism that makes a classifier of any network."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import keras
from keras import layers
from pydantic import AfterValidator, Field

from configs.errors import UserError
from configs.registry import nearest
from configs.resume import Facts
from distill.backbones import BACKBONES, HEAD
from distill.backbones.flat import counted_from_zero
from distill.backbones.weights.published import (
    find_published,
    published_file,
    published_weights,
)
from distill.backbones.weights_file import SUFFIXES, load_weights_file

Dropout = Annotated[float, Field(ge=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(ge=0.1, le=4)]
"""Factor of the channels of every layer."""

Load = Callable[[keras.Model, float], keras.Model]
"""(classifier, width) -> the classifier with weights."""
LoadFile = Callable[[keras.Model, Path], keras.Model]
"""(classifier, file) -> the classifier with the weights of the file."""
SCRATCH_MOMENTUM = 0.9
"""BatchNormalization from scratch and with the kernels of another network.

The first statistics are wrong there, and 0.99 keeps them for hundreds of updates. B0 from lite on
flowers at 64 px, after 4 epochs of 35 updates: 62.6 % of 500 photos with 0.99, 68.2 % with 0.9.
"""
DROP_PATH = 0.2
"""Share of the photos for which the last residual block is skipped in training; earlier ones less.

Keras builds EfficientNets with it (stochastic depth: Huang et al. 2016, arXiv:1603.09382). A deep
network that starts at random on few photos hardly learns under it (docs/LOG.md).
"""


@dataclass(frozen=True)
class Network:
    """What a family says of one of its networks.

    Attributes:
        features: (image_size, width) -> a flat model with random weights, from pixels of 0..255 to
            pooled features.
        image_size: the default input, in pixels.
        smallest_image: the smallest legal input, in pixels.
        loaders: what `weights` may name beside files, and how these weights are loaded.
        from_scratch: prepares a network without weights.
        find_imagenet: finds the file of the weights `imagenet`, if it is here.
        has_widths: whether the network has an option `width`.
        has_batchnorm: whether it has an option `batchnorm_momentum`.
        has_drop_path: whether it has an option `drop_path`.
        load_file: loads the weights that a path names.
        suffixes: the endings of these files.
    """

    name: str
    family: str
    features: Callable[[int, float], keras.Model]
    image_size: int
    smallest_image: int = 32
    loaders: Mapping[str, Load] = field(default_factory=dict)
    find_imagenet: Callable[[], Path | None] | None = None
    from_scratch: Callable[[keras.Model], None] = lambda model: None
    has_widths: bool = False
    has_batchnorm: bool = True
    has_drop_path: bool = False
    load_file: LoadFile = load_weights_file
    suffixes: tuple[str, ...] = SUFFIXES
    from_another_network: tuple[str, ...] = ()


def add(network: Network) -> None:
    """Register a network as an entry of `BACKBONES`."""

    def build(*, image_size: int, num_classes: int, **options: Any) -> keras.Model:
        return _build(network, image_size, num_classes, options)

    default = "imagenet" if "imagenet" in network.loaders else None
    check = AfterValidator(partial(_check_weights, network))
    options: dict[str, tuple[Any, Any]] = {
        "weights": (Annotated[str | None, check], default),
        "dropout": (Dropout, 0.2),
    }
    if network.has_widths:
        options["width"] = (Width, 1.0)
    if network.has_drop_path:
        options["drop_path"] = (Dropout, DROP_PATH)
    if network.has_batchnorm:
        options["batchnorm_momentum"] = (Momentum | None, None)
    find_imagenet = network.find_imagenet or partial(find_published, network.name)
    keyword = inspect.Parameter.KEYWORD_ONLY
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("image_size", keyword, annotation=int),
            inspect.Parameter("num_classes", keyword, annotation=int),
            *[
                inspect.Parameter(name, keyword, annotation=annotation, default=value)
                for name, (annotation, value) in options.items()
            ],
        ]
    )
    build.__name__ = network.name
    BACKBONES.add(
        name=network.name,
        family=network.family,
        image_size=network.image_size,
        smallest_image=network.smallest_image,
        find_imagenet=find_imagenet if "imagenet" in network.loaders else None,
        check=partial(_options_to_store, network),
    )(build)


def with_head(features: keras.Model, num_classes: int, dropout: float, name: str) -> keras.Model:
    """Features and a classifier: a flat model whose last layer is `HEAD`."""
    x = layers.Dropout(dropout, name="dropout")(features.output)
    logits = layers.Dense(num_classes, dtype="float32", name=HEAD)(x)
    # Keras Applications give a list of one input.
    return keras.Model(features.inputs[0], logits, name=name)


def published_loader(name: str, load_file: LoadFile = load_weights_file) -> Load:
    """The loader of the published ImageNet weights of a network."""

    def load(model: keras.Model, width: float) -> keras.Model:
        published = published_weights(name)[width]
        path = published_file(published, of=name, instead="choose weights: null")
        return load_file(model, path)

    return load


def _build(
    network: Network, image_size: int, num_classes: int, options: Mapping[str, Any]
) -> keras.Model:
    """A flat model, (batch, image_size, image_size, 3) in 0..255 -> (batch, num_classes)."""
    options = {**BACKBONES.options(network.name), **options}
    weights, width = options["weights"], options.get("width", 1.0)
    try:
        _check_weights(network, weights)
    except ValueError as error:
        raise UserError(f"weights are {weights!r}: {error}.") from None
    _check_options(network, options)
    check_image_size(network.name, image_size)
    model = with_head(
        network.features(image_size, width), num_classes, options["dropout"], network.name
    )
    if weights is None:
        network.from_scratch(model)
    elif weights in network.loaders:
        model = network.loaders[weights](model, width)
    else:
        model = network.load_file(model, Path(weights))
    _set_drop_path(model, options.get("drop_path", DROP_PATH))
    momentum = options.get("batchnorm_momentum")
    if momentum is None and (weights is None or weights in network.from_another_network):
        momentum = SCRATCH_MOMENTUM
    if momentum is not None:
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = momentum
    return counted_from_zero(model)


def _set_drop_path(model: keras.Model, drop_path: float) -> None:
    """Scale the rates at which residual blocks are skipped."""
    for layer in model.layers:
        # Only these Dropouts drop whole examples.
        if isinstance(layer, layers.Dropout) and layer.noise_shape is not None:
            layer.rate *= drop_path / DROP_PATH


def check_image_size(name: str, image_size: int) -> None:
    """Raise UserError if an image is too small for a backbone."""
    smallest = BACKBONES.facts(name).get("smallest_image", 0)
    if image_size < smallest:
        raise UserError(f"image_size is {image_size}; {name} needs {smallest} or more.")


def _check_weights(network: Network, weights: str | None) -> str | None:
    """`weights` of a config, unchanged.

    Raises:
        ValueError: they are neither known nor the path of a file.
    """
    if weights is None or weights in network.loaders:
        return weights
    if weights.lower().endswith(network.suffixes):
        return weights
    raise ValueError(
        f"{network.name} has no such weights.{nearest(weights, [*network.loaders, 'null'])} "
        f"Or a path ending in {', '.join(network.suffixes)}"
    )


def _options_to_store(network: Network, options: Facts) -> Facts:
    """The options of a config, without newer ones that change nothing.

    Networks of runs from before there were these options are not trained again.

    Raises:
        UserError: as `_check_options`.
    """
    _check_options(network, options)
    usual = {"width": 1.0, "drop_path": DROP_PATH}
    return {key: value for key, value in options.items() if usual.get(key, ()) != value}


def _check_options(network: Network, options: Mapping[str, Any]) -> None:
    """Raise UserError if nobody publishes weights of this width."""
    weights, width = options["weights"], options.get("width", 1.0)
    if weights not in network.loaders or width == 1.0:
        return
    widths = sorted(published_weights(network.name)) if weights == "imagenet" else [1.0]
    if width not in widths:
        published = ", ".join(f"{value:g}" for value in widths)
        raise UserError(
            f"no weights {weights} are published for {network.name} with width {width:g} "
            f"(there are {published}). Choose one of these widths, weights: null to start at "
            "random, or a path."
        )
