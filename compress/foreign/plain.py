"""Keras models as they are trained become plain float32 models that answer alike."""

import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from compress.foreign.inert import is_inert
from compress.graph.replay import named_layers
from configs.errors import UserError
from distill.backbones.weights_file import set_weights

log = logging.getLogger("potstill")

HALF = {"mixed_float16", "mixed_bfloat16", "float16", "bfloat16"}
FLOAT32 = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
POLICIES = ("DTypePolicy", "FloatDTypePolicy", "QuantizedDTypePolicy", "DTypePolicyMap")
LORA = ("lora_rank", "lora_alpha")


def as_plain(model: keras.Model, name: str) -> keras.Model:
    """The model in float32, without what only matters in training; its answers do not change.

    - Layers that compute in float16 or bfloat16 compute in float32, with the same weights.
    - The weights that LoRA trained are added to the kernels.
    - Kernels that Keras quantized to int8 become float32 again, with the values they were rounded
      to. Their layers do not round what they read any more.
    - Augmentation and noise layers are removed.

    A model that needs none of this is returned as it is.

    Args:
        name: of the model, for the log.

    Raises:
        UserError: Keras has quantized it in a way that cannot be undone.
    """
    if not type(model).__module__.startswith("keras.") and getattr(model, "inputs", None):
        model = keras.Model(model.inputs, model.outputs, name=model.name)  # a class of its own
    changes = list(_changes(model))
    if changes:
        log.info("%s: %s", name, "; ".join(changes))
        config = _in_float32(model.get_config())
        model = _with_weights(type(model).from_config(config), model)
    inert = [layer.name for _, layer in named_layers(model) if is_inert(layer)]
    if inert:
        log.info("%s: removed layers that only matter in training: %s", name, ", ".join(inert))
        model = _with_weights(_without_inert(model), model)
    return model


def _changes(model: keras.Model) -> Iterator[str]:
    """What has to change in the layers, in words.

    Raises:
        UserError: a layer cannot be changed back to float32.
    """
    layers = [layer for _, layer in named_layers(model)]
    half = sorted({str(layer.compute_dtype) for layer in layers} & HALF)
    if half:
        yield f"layers that compute in {' and '.join(half)} now compute in float32"
    if num := sum(bool(getattr(layer, "lora_enabled", False)) for layer in layers):
        yield f"merged the LoRA weights of {num} layers into their kernels"
    quantized = [layer for layer in layers if _is_quantized(layer.get_config())]
    for layer in quantized:
        if not isinstance(layer, keras.layers.Dense) or layer.quantization_mode != "int8":
            raise UserError(
                f"the model is quantized already: Keras has quantized its layer {layer.name!r} "
                f"({type(layer).__name__}). Potstill reads only Dense layers in Keras' int8. Give "
                "the model from before model.quantize()."
            )
    if quantized:
        yield (
            f"Keras has quantized {len(quantized)} Dense layers to int8; their kernels keep the "
            "rounded values, in float32. The model from before model.quantize() is better"
        )


def _is_quantized(node: Any) -> bool:
    if isinstance(node, dict):
        return node.get("class_name") == "QuantizedDTypePolicy" or any(
            map(_is_quantized, node.values())
        )
    return isinstance(node, list) and any(map(_is_quantized, node))


def _in_float32(node: Any) -> Any:
    """A config in which every layer computes in float32, without LoRA and quantization."""
    if isinstance(node, list | tuple):
        return type(node)(map(_in_float32, node))
    if not isinstance(node, dict):
        return node
    if node.get("class_name") in POLICIES:
        return FLOAT32
    return {
        key: "float32" if key == "dtype" and str(value) in HALF else _in_float32(value)
        for key, value in node.items()
        if key not in LORA and key != "quantization_config"
    }


def _with_weights(model: keras.Model, old: keras.Model) -> keras.Model:
    """`model` with the weights of the layers of the same names."""
    layers = dict(named_layers(old))
    for name, layer in named_layers(model):
        if layer.weights:
            set_weights(layer, _float_weights(layers[name]))
    return model


def _float_weights(layer: Any) -> list[np.ndarray]:
    if getattr(layer, "quantization_mode", None) == "int8":
        kernel = np.asarray(layer.kernel, "float32") / np.asarray(layer.kernel_scale)
    elif getattr(layer, "lora_enabled", False):
        kernel = np.asarray(layer.kernel, "float32")
    else:
        return list(layer.get_weights())
    bias = getattr(layer, "bias", None)
    return [kernel] if bias is None else [kernel, np.asarray(bias)]


def _without_inert(model: keras.Model) -> keras.Model:
    """The same graph without the layers that do nothing; nested models stay nested."""
    if isinstance(model, keras.Sequential):
        image = model.inputs[0]
        inputs = keras.Input(batch_shape=image.shape, dtype=image.dtype, name=image.name)
        layers = [_copied(layer) for layer in model.layers if not is_inert(layer)]
        return keras.Sequential([inputs, *layers], name=model.name)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if is_inert(layer) else layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=_copied, call_function=call)


def _copied(layer: Any) -> Any:
    if is_inert(layer):
        return layer  # it is not called
    if isinstance(layer, keras.Sequential) or hasattr(layer, "_run_through_graph"):
        return _without_inert(layer)
    return type(layer).from_config(layer.get_config())
