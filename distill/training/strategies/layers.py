"""Which layers of a network are near its answers, whatever the network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from configs.errors import UserError
from configs.registry import nearest
from distill.backbones import HEAD
from distill.training.precision import leaves


@dataclass(frozen=True)
class Top:
    """The layers of a network from some layer on, to its classifier. One field is set.

    Attributes:
        share: of the layers that have weights, counted from the classifier.
        stages: how many stages; a stage ends where the feature maps get smaller.
        from_layer: the name of the first layer.
    """

    share: float | None = None
    stages: int | None = None
    from_layer: str | None = None

    def __str__(self) -> str:
        if self.from_layer is not None:
            return f"the layers from {self.from_layer} on"
        if self.stages is not None:
            return f"the last {self.stages} stages" if self.stages > 1 else "the last stage"
        if self.share == 0:
            return "the classifier"
        return "all layers" if self.share == 1 else f"the last {self.share:.0%} of the layers"


ALL, HEAD_ONLY = Top(share=1.0), Top(share=0.0)


def train_only(model: keras.Model, top: Top, *, freeze_batchnorm: bool) -> None:
    """Make the classifier and the layers of `top` trainable, and no others.

    Args:
        freeze_batchnorm: also keep the statistics and scales of these layers.

    Raises:
        UserError: the model has no layer of that name.
    """
    chosen = {id(layer) for layer in _chosen(model, top)}
    # A model that is a layer freezes all of its own layers, so it is trainable itself.
    model.trainable = True
    for layer in leaves(model):
        frozen = freeze_batchnorm and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name == HEAD or (id(layer) in chosen and not frozen)


def _chosen(model: keras.Model, top: Top) -> list[Any]:
    layers = leaves(model)
    if top.from_layer is not None:
        names = [layer.name for layer in layers]
        if top.from_layer not in names:
            raise UserError(
                f"strategy partial: {model.name} has no layer {top.from_layer!r}."
                f"{nearest(top.from_layer, names)}"
            )
        return layers[names.index(top.from_layer) :]
    if top.stages is not None:
        stages = stages_of(model)
        first = _last_stage(model, stages) - top.stages + 1
        return [layer for layer in layers if stages[id(layer)] >= first]
    assert top.share is not None
    if top.share == 1:
        return layers
    weighted = [layer for layer in layers if _learns(layer)]
    num_chosen = math.ceil(top.share * len(weighted) - 1e-9)
    return weighted[len(weighted) - num_chosen :]


def _learns(layer: Any) -> bool:
    preprocesses = isinstance(layer, keras.layers.Normalization)
    return layer.name != HEAD and bool(layer.weights) and not preprocesses


def rate_factors(model: keras.Model, decay: float) -> Mapping[str, float]:
    """Factors of the learning rate: `decay` for the last stage, its square for the one before.

    The classifier keeps the whole rate (Clark et al. 2020, appendix A, arXiv:2003.10555, with
    stages in place of layers: a backbone has hundreds of layers).

    Returns:
        By the path of a variable.
    """
    if decay == 1:
        return {}
    stages = stages_of(model)
    last = _last_stage(model, stages)
    return {
        variable.path: decay ** (last - stages[id(layer)] + 1)
        for layer in leaves(model)
        if layer.name != HEAD
        for variable in layer.trainable_variables
    }


def _last_stage(model: keras.Model, stages: Mapping[int, int]) -> int:
    # VGG ends with a pooling that has no layers behind it.
    return max((stages[id(layer)] for layer in leaves(model) if _learns(layer)), default=0)


def stages_of(model: keras.Model) -> Mapping[int, int]:
    """How often the feature maps got smaller up to each layer, that layer included.

    Returns:
        By the `id` of a layer.
    """
    stages: dict[int, int] = {}
    _walk(model, 0, stages)
    return stages


def _walk(model: Any, entering: int, stages: dict[int, int]) -> int:
    """Write down the stages of a model's layers; returns the stage of its output."""
    of_tensor: dict[int, int] = {}
    latest = entering
    for operation in _operations(model):
        read, written = _tensors(operation)
        stages_read = [of_tensor[id(tensor)] for tensor in read if id(tensor) in of_tensor]
        # A layer that is called twice has no single input. It comes after the layer before it.
        stage = max(stages_read) if stages_read else latest
        if isinstance(operation, keras.Model):
            latest = _walk(operation, stage, stages)
        else:
            latest = stage + _shrinks(operation)
            stages[id(operation)] = latest
        of_tensor |= {id(tensor): latest for tensor in written}
    return latest


def _operations(model: Any) -> list[Any]:
    """Layers and functions in the order in which they are called."""
    return list(getattr(model, "operations", None) or model.layers)


def _tensors(operation: Any) -> tuple[list[Any], list[Any]]:
    """The symbolic inputs and outputs of a layer or function that is called once."""
    try:
        read, written = operation.input, operation.output
    except (AttributeError, ValueError):
        return [], []
    return keras.tree.flatten(read), keras.tree.flatten(written)


def _shrinks(operation: Any) -> bool:
    strides = getattr(operation, "strides", 1)
    return max(strides if isinstance(strides, list | tuple) else (strides,)) > 1
