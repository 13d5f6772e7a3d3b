"""Backbone weights from a file: a whole Keras model, or weights with or without classifier."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.applications import efficientnet as keras_efficientnet

from configs.artifacts import ending
from configs.errors import UserError
from distill.backbones import HEAD

SUFFIXES = (".keras", ".weights.h5", ".h5")

IMAGENET_STD = keras_efficientnet.IMAGENET_STDDEV_RGB


def load_weights_file(model: keras.Model, path: Path) -> keras.Model:
    """`model` with the weights of a file.

    A classifier of the same number of classes is loaded, too; otherwise it starts at random.
    The preprocessing follows the file: a file with Keras' ImageNet statistics gets the extra
    layer that they need (see `with_imagenet_rescaling`).

    Args:
        path: a whole model (.keras), its weights (.weights.h5), or a file of Keras Applications
            without its top (.h5).

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(
            f"weights {str(path)!r} do not exist. Expected a file ending in {', '.join(SUFFIXES)}, "
            "or one of the names that this backbone knows."
        )
    load = _load_model if ending(path) == ".keras" else _load_h5
    try:
        with lower_case_ending(path) as readable:
            needs_rescaling = load(model, readable)
    except (ValueError, OSError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"weights {str(path)!r} do not fit {model.name}: {reason:.300}\n"
            f"Expected weights of the same architecture ({', '.join(SUFFIXES)})."
        ) from None
    return with_imagenet_rescaling(model) if needs_rescaling else model


@contextmanager
def lower_case_ending(path: Path) -> Iterator[Path]:
    """The same file under a name with its ending in lower case.

    Keras chooses the format by the ending, and knows `.keras` but not `.KERAS`.
    """
    if all(suffix == suffix.lower() for suffix in path.suffixes[-2:]):  # .keras or .weights.h5
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, path.name.lower())
        link.symlink_to(path.absolute())
        yield link


def _load_model(model: keras.Model, path: Path) -> bool:
    """Copy weights layer by layer; True if the file rescales again after its normalization."""
    stored = keras.saving.load_model(path, compile=False)
    arrays_by_name = {_name(layer): layer.get_weights() for layer in stored.layers if layer.weights}
    layers_by_name = {_name(layer): layer for layer in model.layers if layer.weights}
    # Keras Applications call their classifier "predictions".
    if unknown := sorted(arrays_by_name.keys() - layers_by_name.keys() - {"predictions"}):
        raise ValueError(f"it has layers that {model.name} lacks, such as {unknown[0]}")
    for name, layer in layers_by_name.items():
        arrays = arrays_by_name.get(name, [])
        shapes = [array.shape for array in arrays]
        expected = [tuple(weight.shape) for weight in layer.weights]
        if shapes == expected:
            set_weights(layer, arrays)
        elif name != HEAD:
            raise ValueError(f"its layer {name} has arrays {shapes}, not {expected}")
    return sum(isinstance(layer, keras.layers.Rescaling) for layer in stored.layers) > 1


def _load_h5(model: keras.Model, path: Path) -> bool:
    """Load all weights, or all but the classifier; True if the file has ImageNet statistics."""
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


def _name(layer: Any) -> str:
    """A layer name that two builds share (Keras numbers its Normalization layers)."""
    return "normalization" if isinstance(layer, keras.layers.Normalization) else layer.name


def find_normalization(model: keras.Model) -> Any:
    """The Normalization layer of a model, or None (the Lite models have none)."""
    normalizations = (
        layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)
    )
    return next(normalizations, None)


def with_imagenet_rescaling(model: keras.Model) -> keras.Model:
    """The model with one more layer, as `keras.applications` builds it for weights="imagenet".

    Keras' files hold the standard deviation where Normalization expects the variance. So another
    factor of 1/sqrt(std) is due (https://github.com/tensorflow/tensorflow/issues/49930).
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        x = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Normalization):
            x = keras.layers.Rescaling([std**-0.5 for std in IMAGENET_STD])(x)
        return x

    rescaled = keras.models.clone_model(model, call_function=call)
    for layer, original in zip(
        [layer for layer in rescaled.layers if layer.weights],
        [layer for layer in model.layers if layer.weights],
        strict=True,
    ):
        set_weights(layer, original.get_weights())
    return rescaled


def set_weights(layer: Any, arrays: list[np.ndarray]) -> None:
    """Set the weights of a layer, and what a Normalization layer derives from them."""
    layer.set_weights(arrays)
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # computes with a copy of its weights
