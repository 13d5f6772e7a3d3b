"""Arrays of PyTorch in the layers of a Keras graph."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from configs.errors import UserError
from distill.backbones import HEAD
from distill.backbones.weights.torch_file import read_torch_weights
from distill.backbones.weights_file import SUFFIXES, load_weights_file

TORCH_SUFFIXES = (".pth", ".pt", ".safetensors")
ALL_SUFFIXES = (*TORCH_SUFFIXES, *SUFFIXES)
BATCHNORM = ("weight", "bias", "running_mean", "running_var")


def load_file(model: keras.Model, path: Path) -> keras.Model:
    """`model` with the weights of a file of PyTorch or of Keras.

    A layer of Keras has the name of its counterpart, with `_` where PyTorch has a dot. A classifier
    of the same number of classes is loaded, too.

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    if not path.name.lower().endswith(TORCH_SUFFIXES):
        return load_weights_file(model, path)
    arrays = {
        name: array
        for name, array in read_torch_weights(path).items()
        if not name.endswith(".num_batches_tracked")
    }
    prefixes = {
        name.rpartition(".")[0].replace(".", "_"): name.rpartition(".")[0] for name in arrays
    }
    for layer in model.layers:
        if layer.weights and layer.name != HEAD:
            if layer.name not in prefixes:
                raise _unfit(model, path, f"it has no arrays {layer.name.replace('_', '.')}")
            _set(model, path, layer, _taken(arrays, prefixes[layer.name], layer))
    _load_classifier(model, arrays)
    if arrays:
        raise _unfit(model, path, f"it also has {', '.join(sorted(arrays)[:3])}")
    return model


def _prefix(name: str) -> str:
    """The name of a layer of PyTorch, from that of one of its arrays."""
    return name.rpartition(".")[0]


def _load_classifier(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    names = [name for name in ("fc", "classifier", "head") if f"{name}.weight" in arrays]
    if not names:
        return
    kernel, bias = arrays.pop(f"{names[0]}.weight"), arrays.pop(f"{names[0]}.bias")
    head = model.get_layer(HEAD)
    if tuple(head.kernel.shape) == kernel.T.shape:
        head.set_weights([kernel.T, bias])


def _taken(arrays: dict[str, np.ndarray], prefix: str, layer: Any) -> list[np.ndarray]:
    """Remove the arrays of one layer; returns them in Keras' order and layout."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return [
            arrays.pop(f"{prefix}.{name}") for name in BATCHNORM if f"{prefix}.{name}" in arrays
        ]
    kernel = arrays.pop(f"{prefix}.weight")
    if kernel.ndim == 4:
        # (out, in, height, width) -> (height, width, in, out); depthwise
        # (channels, 1, height, width) -> (height, width, channels, 1)
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    bias = arrays.pop(f"{prefix}.bias", None)
    return [kernel] if bias is None else [kernel, bias]


def _set(model: keras.Model, path: Path, layer: Any, arrays: list[np.ndarray]) -> None:
    shapes = [array.shape for array in arrays]
    expected = [tuple(weight.shape) for weight in layer.weights]
    if shapes != expected:
        raise _unfit(model, path, f"its {layer.name} has arrays {shapes}, not {expected}")
    layer.set_weights(arrays)


def _unfit(model: keras.Model, path: Path, reason: str) -> UserError:
    return UserError(
        f"weights {str(path)!r} do not fit {model.name}: {reason}.\n"
        f"Expected weights of the same architecture ({', '.join(ALL_SUFFIXES)})."
    )
