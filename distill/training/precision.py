"""Mixed precision: a network computes in 16 bits, and its weights stay in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import keras

from distill.backbones import HEAD

Precision = Literal["float32", "bfloat16", "float16"]

# Pixels of 0..255 would lose their last bits, and logits their differences.
EXACT = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.InputLayer)


@contextmanager
def computing_in(precision: Precision, model: keras.Model) -> Iterator[None]:
    """Within this block, the layers of a model compute in `precision`; before and after in float32.

    Weights are variables of float32 throughout (Micikevicius et al. 2018, section 3.1,
    arXiv:1710.03740). Preprocessing and the classifier compute in float32, too.
    """
    if precision == "float32":
        yield
        return
    policies = {id(layer): layer.dtype_policy for layer in leaves(model)}
    changed = [layer for layer in leaves(model) if _may_change(layer)]
    try:
        for layer in changed:
            layer.dtype_policy = f"mixed_{precision}"
        yield
    finally:
        for layer in changed:
            layer.dtype_policy = policies[id(layer)]


def _may_change(layer: Any) -> bool:
    return layer.name != HEAD and not isinstance(layer, EXACT)


def leaves(model: Any) -> list[Any]:
    """The layers of a model in their order; a model inside it is replaced by its layers."""
    layers: list[Any] = []
    for layer in model.layers:
        layers += leaves(layer) if isinstance(layer, keras.Model) else [layer]
    return layers
