"""Activations in equalization: how each is computed when its channels are divided by a scale."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers


class Rule(NamedTuple):
    """How f(x) / s is computed from x' = x / (factor * s), for a nonlinear activation f.

    Attributes:
        name: of the activation, for people.
        scaled: (x', factor * s, name of the activation layer) -> f(x) / s, exact for every x.
        parts: the ends of the names of the new layers, which begin with that of the activation.
        rounded: those of them whose results int8 rounds.
        factor: see above.
        zero_below: f is 0 below this value, or nearly so; values below it need no range.
        is_fused: files compute f within the layer before, so they never round x.
    """

    name: str
    scaled: Callable[[Any, np.ndarray, str], Any]
    parts: tuple[str, ...]
    rounded: tuple[str, ...]
    factor: float = 1.0
    zero_below: float = -np.inf
    is_fused: bool = False


def _swish(x: Any, scale: np.ndarray, name: str) -> Any:
    """x' * sigmoid(s * x'): the gate needs the original x."""
    scaled = layers.Rescaling(scale.tolist(), name=f"{name}_scale")(x)
    gate = layers.Activation("sigmoid", name=f"{name}_gate")(scaled)
    return layers.Multiply(name=f"{name}_product")([x, gate])


def _hard_swish(x: Any, scale: np.ndarray, name: str) -> Any:
    """x' * relu6(6s * x' + 3); x' contains the sixth of x * relu6(x + 3) / 6."""
    scaled = layers.Rescaling(scale.tolist(), offset=3.0, name=f"{name}_scale")(x)
    gate = layers.ReLU(6.0, name=f"{name}_gate")(scaled)
    return layers.Multiply(name=f"{name}_product")([x, gate])


def _relu6(x: Any, scale: np.ndarray, name: str) -> Any:
    """min(relu(x'), 6 / s): every channel is cut off where its 6 is now."""
    positive = layers.ReLU(name=f"{name}_relu")(x)
    cut = keras.ops.minimum(positive, (6 / scale).astype("float32"))
    return layers.Activation("linear", name=f"{name}_cut")(cut)  # gives the tensor its name


RULES = {
    keras.activations.silu: Rule(
        "swish", _swish, ("_scale", "_gate", "_product"), ("_scale", "_product"), zero_below=-8.0
    ),
    keras.activations.hard_silu: Rule(
        "hard-swish",
        _hard_swish,
        ("_scale", "_gate", "_product"),
        ("_scale", "_gate", "_product"),
        factor=6.0,
        zero_below=-3.0,
    ),
    keras.activations.relu6: Rule("ReLU6", _relu6, ("_relu", "_cut"), ("_cut",), is_fused=True),
}
"""The rules by activation, and what they cost in a file:

- a swish takes two operations, and three with its rule;
- a hard-swish takes one, and three with its rule;
- a ReLU6 is part of the layer before, and its rule takes one.
"""
FUSED = (keras.activations.linear, keras.activations.relu)
"""Files compute these within the layer before. So they round only the values that these return."""
HOMOGENEOUS = (*FUSED, keras.activations.leaky_relu)
"""f(x / s) is f(x) / s, so a scale passes through without any operation."""


def activation_of(layer: Any) -> Callable | None:
    """The function that an activation layer computes; None for other layers and functions."""
    if isinstance(layer, layers.Activation):
        return layer.activation
    if isinstance(layer, layers.LeakyReLU | layers.PReLU):
        return keras.activations.leaky_relu
    if isinstance(layer, layers.ReLU) and not layer.threshold:
        if layer.max_value is None:
            slope = layer.negative_slope
            return keras.activations.leaky_relu if slope else keras.activations.relu
        if layer.max_value == 6 and not layer.negative_slope:
            return keras.activations.relu6
    return None
