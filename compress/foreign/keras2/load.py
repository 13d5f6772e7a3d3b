"""Files of Keras 2: loaded by tf_keras, freed of the wrappers of tfmot, and turned to Keras 3."""

import logging
from contextlib import ExitStack
from typing import Any

import keras

from compress.foreign.answers import NoCounterpart
from compress.foreign.classes import objects_of
from compress.foreign.container import Container
from compress.foreign.keras2.circles import circles_are_errors
from compress.foreign.keras2.graph import from_keras2
from compress.foreign.keras2.operations import check_operation
from compress.methods.tfmot.bridge import import_tfmot
from configs.errors import UserError

log = logging.getLogger("potstill")

PRUNING, CLUSTERING = "PruneLowMagnitude", "ClusterWeights"
OTHER_OPERATIONS = {"ClassMethod", "InstanceMethod", "InstanceProperty", "TensorFlowOpLayer"}
"""Layers of Keras 2 that call whatever of TensorFlow a file names."""
QAT = {"QuantizeWrapper", "QuantizeWrapperV2", "QuantizeLayer", "QuantizeAnnotate"}


def load_keras2(container: Container, file: Any) -> keras.Model:
    """The model of a file of Keras 2, in Keras 3.

    Args:
        file: where tf_keras reads it.

    Raises:
        NoCounterpart: a part of it does not exist in Keras 3.
        UserError: it does not load.
    """
    import tf_keras
    from tf_keras.src.applications import convnext

    _check_operations(container.config)
    blocks = {cls.__name__: cls for cls in (convnext.LayerScale, convnext.StochasticDepth)}
    wrapped = wrappers_of(container)
    with ExitStack() as stack:
        if wrapped:
            tfmot = import_tfmot()
            stack.enter_context(tfmot.sparsity.keras.prune_scope())
            stack.enter_context(tfmot.clustering.keras.cluster_scope())
        stack.enter_context(circles_are_errors())
        model = tf_keras.models.load_model(file, custom_objects=blocks, compile=False)
        if PRUNING in wrapped:
            model = tfmot.sparsity.keras.strip_pruning(model)
        if CLUSTERING in wrapped:
            model = tfmot.clustering.keras.strip_clustering(model)
    for name in sorted(set(wrapped)):
        num = wrapped.count(name)
        log.info("%s: removed %d wrappers of tfmot (%s)", container.path.name, num, name)
    return from_keras2(model)


def _check_operations(node: Any) -> None:
    """Raise NoCounterpart for an operation that Potstill does not know, before it can run.

    Loading a model calls its operations, and one that reads no tensor of the model runs at once.
    """
    parts = node if isinstance(node, list) else []
    if isinstance(node, dict):
        parts = list(node.values())
        kind = str(node.get("class_name")).rsplit(">", 1)[-1]
        if kind in OTHER_OPERATIONS:
            raise NoCounterpart(f"a layer of the kind {kind} has no counterpart in Keras 3")
        if kind == "TFOpLambda":
            check_operation(str(node["config"].get("function")))
    for part in parts:
        _check_operations(part)


def wrappers_of(container: Container) -> list[str]:
    """The wrappers of tfmot in a file, one name for every layer that is wrapped.

    Raises:
        UserError: the model was trained for int8 by tfmot.
    """
    names = [named.kind for named in objects_of(container.config)]
    if trained := QAT & set(names):
        raise UserError(
            f"{container.path} was trained for int8 by tfmot: it has the layer {trained.pop()}. "
            "Potstill chooses its own int8 ranges. Give the model from before quantize_model(). "
            "Potstill can train that one for int8:\n"
            "  compress quantize MODEL.keras --data PHOTOS --max-drop 0.005 --qat-epochs 5"
        )
    return [name for name in names if name in (PRUNING, CLUSTERING)]
