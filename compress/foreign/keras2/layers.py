"""Layers of Keras 2 as layers of Keras 3 that answer alike."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.applications import convnext

from compress.foreign.answers import NoCounterpart
from compress.foreign.inert import is_inert

HARMLESS = {
    "batch_input_shape", "dtype", "dynamic", "implementation", "input_length", "key_shape", "name",
    "query_shape", "ragged", "rng_type", "robust_masking", "softmax_robust_masking", "sparse",
    "trainable", "value_shape",
}  # fmt: skip
"""Options of Keras 2 that change no answer, whatever their value."""
ONLY_TRAINING = ("_initializer", "_regularizer", "_constraint")
"""How the names of options end that matter only when a model is built or trained."""
ACTIVATIONS = ("activation", "recurrent_activation")
WITHOUT_EFFECT = {"groups": 1, "time_major": False, "renorm": False}
"""Options that Keras 3 does not have, and the value with which they change nothing."""
OTHER_NAMES = {"alpha": "negative_slope", "theta": "threshold"}
"""Options of LeakyReLU and ThresholdedReLU by their names in Keras 3."""
OTHER_CLASSES = {"ThresholdedReLU": layers.ReLU, "LayerScale": convnext.LayerScale}
RENAMED = ("LeakyReLU", "ThresholdedReLU")


def counterparts(layer: Any, name: str) -> list[Any]:
    """The layers of Keras 3 that, called in turn, answer as a layer of Keras 2.

    The first one takes the weights of the layer. A layer that does nothing has no counterpart.

    Args:
        name: of the layer in the new model.

    Raises:
        NoCounterpart: Keras 3 has no such layer.
    """
    kind = type(layer).__name__
    if is_inert(layer) or kind == "StochasticDepth":
        return []
    if kind == "Activation":
        return _activation_layers(layer, layer.activation, name)
    if kind == "Lambda":
        options = {"arguments": layer.arguments, "output_shape": layer.output_shape[1:]}
        return [layers.Lambda(layer.function, name=name, **options)]
    cls = OTHER_CLASSES.get(kind) or getattr(layers, kind, None)
    if cls is None or not type(layer).__module__.startswith("tf_keras."):
        raise NoCounterpart(f"the layer {layer.name!r} ({kind}) does not exist in Keras 3")
    made = cls(name=name, **_options(layer, cls))
    if not hasattr(made, "activation"):
        return [made]
    after = _activation_layers(layer, layer.activation, f"{name}_activation")
    if [type(other) for other in after] == [layers.Activation]:
        made.activation, after = after[0].activation, []
    if hasattr(made, "recurrent_activation"):
        (recurrent,) = _activation_layers(layer, layer.recurrent_activation, name)[-1:]
        if after or not isinstance(recurrent, layers.Activation):
            raise NoCounterpart(f"the activations of the layer {layer.name!r} ({kind}) differ")
        made.recurrent_activation = recurrent.activation
    return [made, *after]


def _options(layer: Any, cls: Callable) -> Mapping[str, Any]:
    kind, config = type(layer).__name__, layer.get_config()
    if kind == "Normalization":
        return _normalization(layer)
    if kind in RENAMED:
        config = {OTHER_NAMES.get(key, key): value for key, value in config.items()}
    allowed = set(inspect.signature(cls).parameters) - HARMLESS
    options = {}
    for key, value in config.items():
        if key in HARMLESS or key in ACTIVATIONS or key.endswith(ONLY_TRAINING):
            continue
        if key in allowed:
            options[key] = _plain(value)
        elif value is not None and value != WITHOUT_EFFECT.get(key):
            raise NoCounterpart(f"the layer {layer.name!r} ({kind}) has {key}={value!r}")
    return options


def _plain(value: Any) -> Any:
    """A list with one number, as Keras 2 writes an axis, as the number; other lists as tuples."""
    if isinstance(value, list | tuple):
        return value[0] if len(value) == 1 else tuple(_plain(part) for part in value)
    return value


def _normalization(layer: Any) -> Mapping[str, Any]:
    """Mean and variance, whether they are constants or were learned, as constants."""
    mean, variance = (np.ravel(np.asarray(values)) for values in (layer.mean, layer.variance))
    return {"axis": layer.axis or None, "mean": mean, "variance": variance, "invert": layer.invert}


def _activation_layers(layer: Any, activation: Any, name: str) -> list[Any]:
    """The layers that compute an activation of Keras 2."""
    import tf_keras

    if isinstance(activation, tf_keras.layers.Layer):
        return counterparts(activation, name)
    function = getattr(activation, "__name__", type(activation).__name__)
    if function == "hard_sigmoid":  # that of Keras 3 has another slope
        scaled = layers.Rescaling(0.2, 0.5, name=f"{name}_scaled")
        return [scaled, layers.ReLU(max_value=1.0, name=name)]
    module = getattr(activation, "__module__", "")
    if module.split(".")[0] not in ("tf_keras", "tensorflow") or not hasattr(
        keras.activations, function
    ):
        raise NoCounterpart(
            f"the activation {function!r} of the layer {layer.name!r} does not exist in Keras 3"
        )
    return [layers.Activation(function, name=name)]
