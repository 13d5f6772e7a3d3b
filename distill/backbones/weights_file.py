"""Backbone weights from a file: a whole Keras model, or weights with or without classifier."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras.src.applications import efficientnet as keras_efficientnet

from configs.artifacts import ending
from configs.contract import RANGES
from configs.errors import UserError, is_of_the_machine, opening
from distill.backbones import HEAD
from distill.backbones.weights.foreign_file import check_file

SUFFIXES = (".keras", ".weights.h5", ".h5")

CLASSIFIERS = (HEAD, "predictions")
"""The classifiers of our backbones and of Keras Applications."""

IMAGENET_STD = keras_efficientnet.IMAGENET_STDDEV_RGB


def load_weights_file(model: keras.Model, path: Path) -> keras.Model:
    """`model` with the weights of a file.

    A classifier of the same number of classes is loaded, too; otherwise it starts at random.
    The preprocessing follows the file: a file with Keras' ImageNet statistics gets the extra
    layer that they need (see `with_imagenet_rescaling`). A network that expects blue first has a
    first kernel that reads red first; a file of Keras Applications has the other order.

    Args:
        model: ends in `dropout` and `logits`, as every backbone does.
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
        check_file(path)
        with lower_case_ending(path) as readable, opening(path):
            loaded = load(model, readable)
    except UserError:
        raise
    except Exception as error:  # Keras and h5py raise errors of every kind for damaged files
        if is_of_the_machine(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"weights {str(path)!r} do not fit {model.name}: {reason:.300}\n"
            f"Expected weights of the same architecture ({', '.join(SUFFIXES)})."
        ) from None
    if _reads_blue_first(model) and not loaded.is_ours:
        _turn_first_kernel(model)
    return with_imagenet_rescaling(model) if loaded.needs_rescaling else model


@dataclass(frozen=True)
class _Loaded:
    """What a file says of the preprocessing behind which its weights were trained.

    Attributes:
        is_ours: it scales the pixels itself.
        needs_rescaling: it rescales again after its normalization.
    """

    is_ours: bool
    needs_rescaling: bool


def _reads_blue_first(model: keras.Model) -> bool:
    """Whether Keras trained the network behind its `caffe` preprocessing."""
    pixels = next((layer for layer in model.layers if layer.name == "pixels"), None)
    return pixels is not None and np.allclose(pixels.offset, np.negative(RANGES["caffe"].mean))


def _turn_first_kernel(model: keras.Model) -> None:
    """Have the first convolution read red, green, blue instead of blue, green, red."""
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    first.kernel.assign(np.asarray(first.kernel)[:, :, ::-1])


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


def _load_model(model: keras.Model, path: Path) -> _Loaded:
    """Copy the weights of a whole model layer by layer."""
    stored = keras.saving.load_model(path, compile=False)
    theirs = [layer for layer in stored.layers if layer.weights and layer.name not in CLASSIFIERS]
    ours = [layer for layer in model.layers if layer.weights and layer.name != HEAD]
    by_name = {_name(layer): layer for layer in theirs}
    if by_name.keys() == {_name(layer) for layer in ours}:
        theirs = [by_name[_name(layer)] for layer in ours]
    # Otherwise their order has to do: Keras numbers the layers of Inception and others anew in
    # every process.
    _set_all(ours, [layer.get_weights() for layer in theirs], model.name)
    classifier = next((layer for layer in stored.layers if layer.name in CLASSIFIERS), None)
    if classifier is not None:
        _set_classifier(model, classifier.get_weights())
    names = {layer.name for layer in stored.layers}
    num_rescalings = sum(isinstance(layer, keras.layers.Rescaling) for layer in stored.layers)
    return _Loaded(is_ours="pixels" in names, needs_rescaling=num_rescalings > 1)


def _set_all(layers: list[Any], arrays: list[list[np.ndarray]], name: str) -> None:
    """Set the weights of layers in their order.

    Raises:
        ValueError: number or shapes differ.
    """
    if len(layers) != len(arrays):
        raise ValueError(f"it has {len(arrays)} layers with weights, and {name} has {len(layers)}")
    for layer, values in zip(layers, arrays, strict=True):
        shapes = [array.shape for array in values]
        expected = [tuple(weight.shape) for weight in layer.weights]
        if shapes != expected:
            raise ValueError(f"its layer {layer.name} has arrays {shapes}, not {expected}")
    for layer, values in zip(layers, arrays, strict=True):
        set_weights(layer, values)


def _set_classifier(model: keras.Model, arrays: list[np.ndarray]) -> None:
    head = model.get_layer(HEAD)
    if [array.shape for array in arrays] == [tuple(weight.shape) for weight in head.weights]:
        head.set_weights(arrays)


def _load_h5(model: keras.Model, path: Path) -> _Loaded:
    """Load all weights, or all but the classifier."""
    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        arrays = list(_legacy_arrays(group)) if "layer_names" in group.attrs else None
        is_ours = "layers/rescaling" in file
    if arrays is not None:
        ours = [layer for layer in model.layers if layer.weights and layer.name != HEAD]
        _set_in_order(ours, arrays, model)
    else:
        features = keras.Model(model.input, model.get_layer("dropout").input)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of what it then raises
            try:
                model.load_weights(path)
            except ValueError:
                features.load_weights(path)
    normalization = find_normalization(model)
    is_imagenet = normalization is not None and np.allclose(
        normalization.variance, IMAGENET_STD, atol=1e-3
    )
    return _Loaded(is_ours=is_ours, needs_rescaling=is_imagenet)


def _legacy_arrays(group: Any) -> Iterator[np.ndarray]:
    """All arrays of a file as Keras 2 wrote it, in the order of its layers.

    Nested models are layers there, so the arrays of a flat model are matched one by one.
    """
    for layer in group.attrs["layer_names"]:
        layer_group = group[layer.decode() if isinstance(layer, bytes) else layer]
        for name in layer_group.attrs["weight_names"]:
            yield np.asarray(layer_group[name.decode() if isinstance(name, bytes) else name])


def _set_in_order(layers: list[Any], arrays: list[np.ndarray], model: keras.Model) -> None:
    grouped, start = [], 0
    for layer in layers:
        grouped.append(arrays[start : start + len(layer.weights)])
        start += len(layer.weights)
    if start > len(arrays):
        raise ValueError(f"it has {len(arrays)} arrays, and {model.name} needs {start}")
    _set_all(layers, grouped, model.name)
    if len(arrays) - start not in (0, 2):
        raise ValueError(f"it has {len(arrays)} arrays, and {model.name} takes {start}")
    _set_classifier(model, arrays[start:])


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
