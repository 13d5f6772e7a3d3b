"""The bridge to tfmot, which wraps only tf_keras layers: a model is copied there and back."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compress.graph.replay import named_layers, replay
from configs.errors import UserError

_POOL = ("pool_size", "strides", "padding")
_BIAS = ("use_bias", "activation")
_KERNEL = ("kernel_size", "strides", "padding", "dilation_rate")
OPTIONS: dict[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "Average": (),
    "AveragePooling2D": _POOL,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": ("filters", *_KERNEL, "groups", *_BIAS),
    "Dense": ("units", *_BIAS),
    "DepthwiseConv2D": (*_KERNEL, "depth_multiplier", *_BIAS),
    "Dropout": ("rate", "noise_shape"),
    "Flatten": (),
    "GlobalAveragePooling2D": ("keepdims",),
    "GlobalMaxPooling2D": ("keepdims",),
    "MaxPooling2D": _POOL,
    "Maximum": (),
    "Multiply": (),
    "Normalization": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "Reshape": ("target_shape",),
    "SeparableConv2D": ("filters", *_KERNEL, "depth_multiplier", *_BIAS),
    "Softmax": ("axis",),
    "Subtract": (),
    "ZeroPadding2D": ("padding",),
}
"""The options that are copied from a Keras 3 layer to the tf_keras layer of the same class."""


def import_tfmot() -> Any:
    """The tfmot package, imported without side effects on this process and its children.

    The import sets TF_USE_LEGACY_KERAS, which would turn tf.keras into tf_keras here and in every
    child process.
    """
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    _ = tf.keras.version  # decides what tf.keras is, before tfmot can
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
        if before is not None:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return tfmot


def to_tf_keras(model: keras.Model) -> Any:
    """The same network as a flat tf_keras model, with the same layer names and weights.

    A layer of a nested model is called "<nested model>.<layer>". All layers are trainable, even if
    they were frozen in the Keras model.

    Raises:
        UserError: tf_keras has no counterpart for a layer.
    """
    import tf_keras

    names = {id(layer): name for name, layer in named_layers(model)}
    stand_ins: dict[int, Any] = {}

    def stand_in(layer: keras.Layer) -> Callable:
        if id(layer) not in stand_ins:
            name = names.get(id(layer), layer.name)
            stand_ins[id(layer)] = _tf_keras_layer(layer, name, seed=len(stand_ins))
        # Keras 3 records call arguments such as training=None, which tf_keras must decide itself.
        return lambda *args, **kwargs: stand_ins[id(layer)](*args)

    image = model.inputs[0]
    inputs = tf_keras.Input(tuple(image.shape[1:]), name=image.name)
    outputs = replay(model, inputs, stand_in)
    outputs = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    tf_model = tf_keras.Model(inputs, outputs, name=model.name)
    for _, layer in named_layers(model):
        if _carries_weights(layer):
            stand_ins[id(layer)].set_weights(layer.get_weights())
    return tf_model


def _tf_keras_layer(layer: keras.Layer, name: str, seed: int) -> Any:
    """A tf_keras layer with the options of a Keras 3 layer, without its weights.

    Args:
        seed: of a dropout.
    """
    import tf_keras

    kind = type(layer).__name__
    is_keras = type(layer).__module__.startswith("keras.")
    config = layer.get_config() if is_keras and kind in OPTIONS else {}
    if not config or config.get("data_format") == "channels_first":
        raise UserError(
            f"layer {name!r} ({kind}) cannot be fine-tuned by tfmot, because it has no counterpart "
            f"in tf_keras. Expected one of {', '.join(OPTIONS)}. Replace the layer, or remove the "
            "method that trains in tf_keras (magnitude)."
        )
    options = {key: config[key] for key in OPTIONS[kind] if key in config}
    if "activation" in options:
        options["activation"] = _activation(options["activation"], name)
    if kind == "Normalization":
        options = _normalization_constants(layer)
    if kind == "Dropout":
        # With a generator of its own, the layer draws the same numbers when training resumes.
        options |= {"rng_type": "stateful", "seed": seed}
    return getattr(tf_keras.layers, kind)(name=name, **options)


def _activation(activation: Any, name: str) -> Any:
    """The tf_keras function for an activation of the layer `name`."""
    import tf_keras

    activation = "swish" if activation == "silu" else activation
    try:
        return tf_keras.activations.get(activation)
    except (ValueError, TypeError):
        raise UserError(
            f"layer {name!r} has the activation {activation!r}, which tf_keras does not have. "
            "Replace it, or remove the method that trains in tf_keras (magnitude)."
        ) from None


def _normalization_constants(layer: keras.layers.Normalization) -> dict[str, Any]:
    """Mean and variance of the layer, whether they are constants or were adapted."""
    axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
    mean, variance = (np.ravel(keras.ops.convert_to_numpy(x)) for x in (layer.mean, layer.variance))
    return {"axis": axis, "mean": mean, "variance": variance, "invert": layer.invert}


def _carries_weights(layer: keras.Layer) -> bool:
    # Normalization is copied as constants.
    return bool(layer.weights) and not isinstance(layer, keras.layers.Normalization)


def copy_back(tf_model: Any, into: keras.Model) -> keras.Model:
    """Give the layers of `into` the weights of the tf_keras layers with the same names."""
    for name, layer in named_layers(into):
        if _carries_weights(layer):
            layer.set_weights(tf_model.get_layer(name).get_weights())
    return into
