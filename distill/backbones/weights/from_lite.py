"""`weights: lite`: EfficientNetB0..2 start from the ImageNet kernels of EfficientNet-Lite0..2."""

import keras
import numpy as np

from distill.backbones.efficientnet_lite import PIXEL_MEAN, PIXEL_SCALE, lite_features
from distill.backbones.weights.lite_package import load_lite_weights
from distill.backbones.weights_file import find_normalization, set_weights

OPEN_GATE = 4.0
"""Bias of a squeeze-and-excitation gate that starts open: sigmoid(4) = 0.98."""


def normalize_like_lite(model: keras.Model) -> None:
    """Have an EfficientNetB normalize its input to (pixel - 127) / 128, about -1..1.

    Its Rescaling(1/255) comes first.
    """
    mean, std = PIXEL_MEAN / 255, PIXEL_SCALE / 255
    arrays = [np.full(3, mean, "float32"), np.full(3, std**2, "float32"), np.array(0)]
    set_weights(find_normalization(model), arrays)


def copy_lite_weights(model: keras.Model, variant: int) -> None:
    """Give EfficientNetB0..2 the ImageNet kernels and BatchNormalizations of Lite0..2.

    B<n> and Lite<n> share the shapes of stem and blocks. What Lite lacks starts without effect:
    - squeeze-and-excitation: its gates start open;
    - the repeats of the first and last stage in B1 and B2 (`block1b`, `block7b`), which Lite does
      not scale: these residual blocks start as the identity (last gamma 0);
    - B2's head has 1408 channels, Lite2's 1280: the other 128 start at random.
    Activations still differ (swish, ReLU6), so this is a start for training, not a classifier.
    """
    lite = lite_features(variant, model.input.shape[1])
    load_lite_weights(lite, variant)
    normalize_like_lite(model)
    lite_arrays = {layer.name: layer.get_weights() for layer in lite.layers if layer.weights}
    for layer in model.layers:
        arrays = layer.get_weights()
        if layer.name in lite_arrays:
            pairs = zip(arrays, lite_arrays.pop(layer.name), strict=True)
            layer.set_weights([_overwrite(own, twin) for own, twin in pairs])
        elif layer.name.endswith("_se_expand"):
            kernel, bias = arrays
            layer.set_weights([0.1 * kernel, np.full_like(bias, OPEN_GATE)])
        elif layer.name.endswith("_project_bn"):
            gamma, *others = arrays
            layer.set_weights([np.zeros_like(gamma), *others])
    assert not lite_arrays, f"EfficientNetB{variant} has no layers {sorted(lite_arrays)}"


def _overwrite(own: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """`twin`, followed by the entries that `own` has beyond it along the last axis."""
    assert own.shape[:-1] == twin.shape[:-1]
    assert own.shape[-1] >= twin.shape[-1]
    return np.concatenate([twin, own[..., twin.shape[-1] :]], axis=-1)
