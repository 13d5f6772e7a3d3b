"""A SavedModel without a description of its layers, as `model.export()` writes it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from compress.foreign.answers import NoCounterpart, check_same_answers
from compress.foreign.saved_model.builder import LayerBuilder
from compress.foreign.saved_model.operations import OPERATIONS
from distill.saved_model import ServedModel, open_saved_model

log = logging.getLogger("potstill")

XLA = ("_XlaMustCompile", "_noinline")
"""Attributes of a function that XLA must compile."""
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


class OpaqueGraph(keras.Layer):
    """The inference graph of a SavedModel, with its weights as constants.

    Args:
        function: (batch, height, width, channels) -> answers.
    """

    def __init__(self, function: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, image: Any) -> Any:
        (answers,) = self.function(tf.cast(image, self.function.inputs[0].dtype))
        return tf.cast(answers, tf.float32)

    def get_config(self) -> Mapping[str, Any]:
        # Copies within this process share the function. It is never written to a file.
        return {**super().get_config(), "function": self.function}


def load_graph(path: Path) -> keras.Model:
    """A model that computes what the graph of a SavedModel does.

    It has Keras layers where every operation has one. Otherwise it has one layer, which runs the
    graph.

    Raises:
        UserError: as `open_saved_model`.
    """
    name = path.resolve().name
    function = _frozen(open_saved_model(path))
    image = function.inputs[0]
    inputs = keras.Input(tuple(image.shape[1:]), batch_size=image.shape[0], name="image")
    try:
        outputs = LayerBuilder(function, inputs, OPERATIONS).output()
        model = keras.Model(inputs, outputs, name=name)
        check_same_answers(lambda images: function(tf.cast(images, image.dtype)), model)
        return model
    except (NoCounterpart, ValueError, TypeError, LookupError, tf.errors.OpError) as error:
        log.info(
            "%s: not all of its graph has Keras layers (%s). It can be quantized, but int8 may "
            "lose more than usual. If you have the .keras file, give that.",
            name, error,
        )  # fmt: skip
    return keras.Model(inputs, OpaqueGraph(function, name="graph")(inputs), name=name)


def _frozen(served: ServedModel) -> Any:
    """The function with constants in place of its variables."""
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    function = convert_variables_to_constants_v2(served.function)
    if CALLS & {node.op for node in function.graph.as_graph_def().node}:
        function = convert_variables_to_constants_v2(_without_xla(function))
    return function


def _without_xla(function: Any) -> Any:
    """The same function without the demand that XLA compiles a part of it.

    Keras demands it for grouped convolutions. Such a part stays a call, which neither converters
    nor `LayerBuilder` can read.
    """
    graph, image = function.graph.as_graph_def(), function.inputs[0]
    functions = list(graph.library.function)
    nodes = [*graph.node, *(node for part in functions for node in part.node_def)]
    for part in (*nodes, *functions):
        for name in XLA:
            part.attr.pop(name, None)
    # TensorFlow keeps one function of each name.
    new_names = {part.signature.name: f"{part.signature.name}_without_xla" for part in functions}
    for part in functions:
        part.signature.name = new_names[part.signature.name]
    for attribute in (attribute for node in nodes for attribute in node.attr.values()):
        if attribute.func.name in new_names:
            attribute.func.name = new_names[attribute.func.name]

    def call(image: Any) -> Any:
        names = {function.inputs[0].name: image}, [function.outputs[0].name]
        return tf.graph_util.import_graph_def(graph, *names)

    return tf.compat.v1.wrap_function(call, [tf.TensorSpec(image.shape, image.dtype)])
