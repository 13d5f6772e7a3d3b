"""Operations of a TensorFlow graph as Keras layers."""

from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers, ops

from compress.foreign.answers import NoCounterpart
from compress.foreign.saved_model.builder import LayerBuilder, Operation
from compress.foreign.saved_model.linear import Linear

IMAGE_AXES = [1, 2]
ZERO = np.float32(0)
MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def _attribute(node: Any, name: str) -> Any:
    attribute = node.attr[name]
    kind = str(attribute.WhichOneof("value"))
    if kind == "list":
        return list(attribute.list.i)
    value = getattr(attribute, kind, None)
    return value.decode() if isinstance(value, bytes) else value


def _is_constant(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def _require_constants(node: Any, *values: Any) -> None:
    if not all(map(_is_constant, values)):
        raise NoCounterpart(f"the operation {node.op} computes its own parameters")


def _conv(to: LayerBuilder, node: Any, x: Any, kernel: Any) -> Any:
    _require_constants(node, kernel)
    if _attribute(node, "data_format") != "NHWC":
        raise NoCounterpart("a convolution reads channels first")
    is_depthwise = node.op == "DepthwiseConv2dNative"
    x, padding = to.tensor(x), _attribute(node, "padding").lower()
    if padding == "explicit":
        pads = np.reshape(_attribute(node, "explicit_paddings"), (4, 2))[1:3].tolist()
        x, padding = layers.ZeroPadding2D(pads, name=to.name("padding"))(x), "valid"
    options = {
        "kernel_size": kernel.shape[:2],
        "strides": tuple(_attribute(node, "strides")[1:3]),
        "dilation_rate": tuple(_attribute(node, "dilations")[1:3] or (1, 1)),
        "padding": padding,
    }
    if is_depthwise:
        options["depth_multiplier"] = kernel.shape[3]
    else:
        options |= {"filters": kernel.shape[3], "groups": x.shape[-1] // kernel.shape[2]}
    cls = layers.DepthwiseConv2D if is_depthwise else layers.Conv2D
    return Linear(cls, x, kernel, tuple(options.items()), node.name)


def _dense(to: LayerBuilder, node: Any, x: Any, kernel: Any) -> Any:
    _require_constants(node, kernel)
    if _attribute(node, "transpose_a"):
        raise NoCounterpart("a matrix product turns its input")
    kernel = kernel.T if _attribute(node, "transpose_b") else kernel
    options = (("units", kernel.shape[1]),)
    return Linear(layers.Dense, to.tensor(x), kernel, options, node.name)


def _add(to: LayerBuilder, node: Any, a: Any, b: Any) -> Any:
    if _is_constant(a):
        a, b = b, a
    if _is_constant(b):
        return to.scaled(a, 1.0, b)
    return layers.Add(name=to.name(node.name))([to.tensor(a), to.tensor(b)])


def _subtract(to: LayerBuilder, node: Any, a: Any, b: Any) -> Any:
    if _is_constant(b):
        return to.scaled(a, 1.0, -b)
    if _is_constant(a):
        return to.scaled(b, -1.0, a)
    return layers.Subtract(name=to.name(node.name))([to.tensor(a), to.tensor(b)])


def _multiply(to: LayerBuilder, node: Any, a: Any, b: Any) -> Any:
    if _is_constant(a):
        a, b = b, a
    if _is_constant(b):
        return to.scaled(a, b, 0.0)
    a, b = to.tensor(a), to.tensor(b)
    for x, gate in ((a, b), (b, a)):
        if to.sigmoid_of.get(id(gate)) is x:  # x * sigmoid(x); the sigmoid is not read again
            return layers.Activation("silu", name=to.name(node.name))(x)
    return layers.Multiply(name=to.name(node.name))([a, b])


def _divide(to: LayerBuilder, node: Any, a: Any, b: Any) -> Any:
    if _is_constant(b):
        return to.scaled(a, 1 / b, 0.0)
    return ops.divide(to.tensor(a), to.tensor(b))


def _batch_norm(
    to: LayerBuilder, node: Any, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any
) -> Any:
    _require_constants(node, gamma, beta, mean, variance)
    scale = gamma / np.sqrt(variance.astype("float64") + _attribute(node, "epsilon"))
    return to.scaled(x, scale, beta - mean * scale)


def _passed_on(to: LayerBuilder, node: Any, x: Any, *_: Any) -> Any:
    return x


def _layer(cls: Any, **options: Any) -> Operation:
    return lambda to, node, x: to.call(node, partial(cls, **options), x)


def _sigmoid(to: LayerBuilder, node: Any, x: Any) -> Any:
    result = to.call(node, partial(layers.Activation, "sigmoid"), x)
    to.sigmoid_of[id(result)] = to.tensor(x)
    return result


def _pool(cls: Any, to: LayerBuilder, node: Any, x: Any) -> Any:
    size, strides = (tuple(_attribute(node, name)[1:3]) for name in ("ksize", "strides"))
    return to.call(node, partial(cls, size, strides, _attribute(node, "padding").lower()), x)


def _reduce(cls: Any, function: Any, to: LayerBuilder, node: Any, x: Any, axes: Any) -> Any:
    _require_constants(node, axes)
    x, keepdims = to.tensor(x), bool(_attribute(node, "keep_dims"))
    axes = sorted(axis % len(x.shape) for axis in np.ravel(axes).tolist())
    if axes == IMAGE_AXES and len(x.shape) == 4:
        return to.call(node, partial(cls, keepdims=keepdims), x)
    return function(x, axes, keepdims)


def _pad(to: LayerBuilder, node: Any, x: Any, pads: Any, value: Any = ZERO) -> Any:
    _require_constants(node, pads, value)
    if np.any(value) or len(pads) != 4 or np.any(pads[[0, 3]]):
        raise NoCounterpart("something else than zeros is padded around an image")
    return to.call(node, partial(layers.ZeroPadding2D, pads[1:3].tolist()), x)


def _reshape(to: LayerBuilder, node: Any, x: Any, shape: Any) -> Any:
    _require_constants(node, shape)
    return _as_shape(to, node, x, [int(size) for size in shape[1:]])


def _squeeze(to: LayerBuilder, node: Any, x: Any) -> Any:
    x = to.tensor(x)
    axes = {axis % len(x.shape) for axis in _attribute(node, "squeeze_dims")}
    axes = axes or {axis for axis, size in enumerate(x.shape) if axis and size == 1}
    sizes = [size for axis, size in enumerate(x.shape) if axis and axis not in axes]
    return _as_shape(to, node, x, sizes)


def _expand(to: LayerBuilder, node: Any, x: Any, axis: Any) -> Any:
    _require_constants(node, axis)
    sizes = list(to.tensor(x).shape)
    sizes.insert(int(axis) % (len(sizes) + 1), 1)
    return _as_shape(to, node, x, sizes[1:])


def _as_shape(to: LayerBuilder, node: Any, x: Any, shape: list[int]) -> Any:
    if list(to.tensor(x).shape[1:]) == shape:
        return x
    return to.call(node, partial(layers.Reshape, shape), x)


def _shape(to: LayerBuilder, node: Any, x: Any) -> np.ndarray:
    return np.array([-1 if size is None else size for size in to.tensor(x).shape], "int32")


def _pack(to: LayerBuilder, node: Any, *values: Any) -> np.ndarray:
    _require_constants(node, *values)
    return np.stack(values)


def _slice(to: LayerBuilder, node: Any, x: Any, begin: Any, end: Any, strides: Any) -> Any:
    """A part of a shape; slices of tensors are not known."""
    _require_constants(node, x, begin, end, strides)
    masks = {name: _attribute(node, name) for name in MASKS}
    return tf.raw_ops.StridedSlice(input=x, begin=begin, end=end, strides=strides, **masks).numpy()


def _concat(to: LayerBuilder, node: Any, *values: Any) -> Any:
    *parts, axis = values
    _require_constants(node, axis)
    if all(map(_is_constant, parts)):
        return np.concatenate(parts, int(axis))
    joined = layers.Concatenate(int(axis), name=to.name(node.name))
    return joined([to.tensor(part) for part in parts])


def _cast(to: LayerBuilder, node: Any, x: Any) -> Any:
    kind = tf.as_dtype(_attribute(node, "DstT"))
    if _is_constant(x):
        return x.astype(kind.as_numpy_dtype)
    if kind != tf.float32:
        raise NoCounterpart(f"a tensor is cast to {kind.name}")
    return x


OPERATIONS: dict[str, Operation] = {
    "Add": _add,
    "AddV2": _add,
    "AvgPool": partial(_pool, layers.AveragePooling2D),
    "BiasAdd": _add,
    "Cast": _cast,
    "ConcatV2": _concat,
    "Conv2D": _conv,
    "DepthwiseConv2dNative": _conv,
    "Elu": _layer(layers.Activation, activation="elu"),
    "ExpandDims": _expand,
    "FusedBatchNormV3": _batch_norm,
    "Identity": _passed_on,
    "IdentityN": _passed_on,
    "LeakyRelu": lambda to, node, x: to.call(
        node, partial(layers.LeakyReLU, _attribute(node, "alpha")), x
    ),
    "MatMul": _dense,
    "Max": partial(_reduce, layers.GlobalMaxPooling2D, ops.max),
    "MaxPool": partial(_pool, layers.MaxPooling2D),
    "Mean": partial(_reduce, layers.GlobalAveragePooling2D, ops.mean),
    "Mul": _multiply,
    "Neg": lambda to, node, x: to.scaled(x, -1.0, 0.0),
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "PreventGradient": _passed_on,
    "RealDiv": _divide,
    "Relu": _layer(layers.ReLU),
    "Relu6": _layer(layers.ReLU, max_value=6.0),
    "Reshape": _reshape,
    "Selu": _layer(layers.Activation, activation="selu"),
    "Shape": _shape,
    "Sigmoid": _sigmoid,
    "Snapshot": _passed_on,
    "Softmax": _layer(layers.Activation, activation="softmax"),
    "Softplus": _layer(layers.Activation, activation="softplus"),
    "Squeeze": _squeeze,
    "StopGradient": _passed_on,
    "StridedSlice": _slice,
    "Sub": _subtract,
    "Tanh": _layer(layers.Activation, activation="tanh"),
}
"""By the names of TensorFlow. A graph with another operation stays a to."""
