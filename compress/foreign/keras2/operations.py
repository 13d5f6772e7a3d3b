"""Operations of TensorFlow between the layers of a Keras 2 model, as operations of Keras 3."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import ops

from compress.foreign.answers import NoCounterpart

# The names of the arguments are those of TensorFlow: files name them, code often does not.


def _tensor(value: Any) -> Any:
    """A constant as files hold it, a list of numbers, as an array."""
    return np.asarray(value, "float32") if isinstance(value, list) else value


def _of_two(function: Callable) -> Callable:
    return lambda x, y, **_: function(_tensor(x), _tensor(y))


def _resize(images: Any, size: Any, method: str = "bilinear", **options: Any) -> Any:
    antialias = bool(options.get("antialias", False))
    shape = tuple(int(side) for side in size)
    return ops.image.resize(images, shape, str(method).lower(), antialias)


def _slice(tensor: Any, slice_spec: Any) -> Any:
    parts = [
        slice(*map(part.get, EDGES)) if isinstance(part, dict) else part for part in slice_spec
    ]
    return tensor[tuple(parts)]


EDGES = ("start", "stop", "step")

OPERATIONS: dict[str, Callable] = {
    "__operators__.add": _of_two(ops.add),
    "__operators__.getitem": _slice,
    "cast": lambda x, dtype, **_: ops.cast(x, getattr(dtype, "name", dtype)),
    "clip_by_value": lambda t, clip_value_min, clip_value_max, **_: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "concat": lambda values, axis, **_: ops.concatenate(values, axis),
    "expand_dims": lambda input, axis, **_: ops.expand_dims(input, axis),
    "identity": lambda input, **_: input,
    "image.resize": _resize,
    "linalg.matmul": lambda a, b, **_: ops.matmul(a, _tensor(b)),
    "math.abs": lambda x, **_: ops.abs(x),
    "math.add": _of_two(ops.add),
    "math.divide": _of_two(ops.divide),
    "math.exp": lambda x, **_: ops.exp(x),
    "math.maximum": _of_two(ops.maximum),
    "math.minimum": _of_two(ops.minimum),
    "math.multiply": _of_two(ops.multiply),
    "math.negative": lambda x, **_: ops.negative(x),
    "math.pow": _of_two(ops.power),
    "math.reduce_max": lambda input_tensor, axis=None, keepdims=False, **_: ops.max(
        input_tensor, axis, keepdims
    ),
    "math.reduce_mean": lambda input_tensor, axis=None, keepdims=False, **_: ops.mean(
        input_tensor, axis, keepdims
    ),
    "math.reduce_sum": lambda input_tensor, axis=None, keepdims=False, **_: ops.sum(
        input_tensor, axis, keepdims
    ),
    "math.sigmoid": lambda x, **_: ops.sigmoid(x),
    "math.sqrt": lambda x, **_: ops.sqrt(x),
    "math.square": lambda x, **_: ops.square(x),
    "math.subtract": _of_two(ops.subtract),
    "math.tanh": lambda x, **_: ops.tanh(x),
    "math.truediv": _of_two(ops.divide),
    "nn.bias_add": lambda value, bias, **_: ops.add(value, _tensor(bias)),
    "nn.gelu": lambda features, approximate=False, **_: ops.gelu(features, approximate),
    "nn.leaky_relu": lambda features, alpha=0.2, **_: ops.leaky_relu(features, alpha),
    "nn.relu": lambda features, **_: ops.relu(features),
    "nn.relu6": lambda features, **_: ops.relu6(features),
    "nn.silu": lambda features, **_: ops.silu(features),
    "nn.softmax": lambda logits, axis=-1, **_: ops.softmax(logits, axis or -1),
    "reshape": lambda tensor, shape, **_: ops.reshape(tensor, tuple(map(int, shape))),
    "squeeze": lambda input, axis=None, *_, **__: ops.squeeze(input, axis),
    "stop_gradient": lambda input, **_: input,
    "transpose": lambda a, perm=None, **_: ops.transpose(a, perm),
}
"""By the names that Keras 2 writes into its files."""

SCALING = {
    "__operators__.add": lambda y: (1.0, y),
    "math.add": lambda y: (1.0, y),
    "math.divide": lambda y: (1 / y, 0.0),
    "math.multiply": lambda y: (y, 0.0),
    "math.subtract": lambda y: (1.0, -y),
    "math.truediv": lambda y: (1 / y, 0.0),
    "nn.bias_add": lambda y: (1.0, y),
}
"""Operations of an image with a constant: (scale, offset) of the Rescaling that does the same."""


def check_operation(name: str) -> None:
    """Raise NoCounterpart if Potstill does not know an operation of TensorFlow."""
    if name.removeprefix("compat.v1.") not in OPERATIONS:
        raise NoCounterpart(f"the operation tf.{name} has no counterpart in Keras 3 here")


def operation(layer: Any) -> Callable:
    """What does the same as a TFOpLambda or SlicingOpLambda."""
    check_operation(layer.get_config()["function"])
    name = layer.get_config()["function"].removeprefix("compat.v1.")

    def call(*args: Any, **kwargs: Any) -> Any:
        options = {key: value for key, value in kwargs.items() if key != "name"}
        return OPERATIONS[name](*args, **options)

    return call


def rescaling(layer: Any, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """(scale, offset) of the Rescaling that does the same to the pixels; None for other operations.

    int8 files fold the scaling of the pixels into the first kernel if it is such a layer.

    Args:
        args: of the operation; the first one is the image.
        kwargs: of the operation.
    """
    name = layer.get_config().get("function")
    others = [*args[1:], *(kwargs[key] for key in ("y", "bias") if key in kwargs)]
    if name not in SCALING or len(others) != 1:
        return None
    try:
        constant = np.asarray(others[0], "float64")
    except (TypeError, ValueError, NotImplementedError):
        return None  # another tensor of the model
    if constant.ndim > 1:
        return None
    scale, offset = (np.asarray(value).tolist() for value in SCALING[name](constant))
    return scale, offset
