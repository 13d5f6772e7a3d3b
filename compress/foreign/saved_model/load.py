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
from configs.errors import UserError

log = logging.getLogger("potstill")

SIGNATURES = ("serving_default", "serve")
TOUCHES_FILES = {
    "EagerPyFunc", "InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "MatchingFiles",
    "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile",
}  # fmt: skip
"""Operations that run Python code or touch files. No classifier needs them to answer."""
CHANGES_ITSELF = {"AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp"}
"""Operations by which an answer changes the next one."""
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


def check_operations(path: Path) -> None:
    """Raise UserError if a part of a SavedModel touches files or runs code.

    Loading it may run some of it, so this comes before.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((path / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise UserError(f"{path} is damaged ({error}). Write it again.") from None
    kinds: set[str] = set()
    for graph in (meta_graph.graph_def for meta_graph in saved.meta_graphs):
        functions = [part.node_def for part in graph.library.function]
        kinds |= {node.op for nodes in (graph.node, *functions) for node in nodes}
    if touching := sorted(kinds & TOUCHES_FILES):
        raise UserError(
            f"{path} runs {', '.join(touching)}, which touches files or runs code. Potstill runs "
            "neither. Export the model without it."
        )


def load_graph(path: Path) -> keras.Model:
    """A model that computes what the graph of a SavedModel does.

    It has Keras layers where every operation has one. Otherwise it has one layer, which runs the
    graph.

    Raises:
        UserError: it cannot be served, has several inputs or outputs, or draws random numbers.
    """
    name = path.resolve().name
    loaded = _loaded(path)  # the signature reads its variables
    function = _frozen(path, _signature(path, loaded))
    image = function.inputs[0]
    inputs = keras.Input(tuple(image.shape[1:]), batch_size=image.shape[0], name="image")
    try:
        outputs = LayerBuilder(function, inputs, OPERATIONS).output()
        model = keras.Model(inputs, outputs, name=name)
        check_same_answers(lambda images: function(tf.cast(images, image.dtype)), model)
        return model
    except (NoCounterpart, ValueError, TypeError, LookupError, tf.errors.OpError) as error:
        log.info("%s: its graph is one layer, so int8 chooses plain ranges: %s", name, error)
    return keras.Model(inputs, OpaqueGraph(function, name="graph")(inputs), name=name)


def _loaded(path: Path) -> Any:
    try:
        return tf.saved_model.load(str(path))
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise UserError(
            f"{path} is not a SavedModel that loads here: {str(error).splitlines()[0]}. Write it "
            "again with model.export(folder)."
        ) from None


def _signature(path: Path, loaded: Any) -> Any:
    names = [name for name in SIGNATURES if name in loaded.signatures]
    if not names:
        raise UserError(
            f"{path} has the signatures {', '.join(loaded.signatures) or 'none'}. Expected "
            "serving_default. Write it again with model.export(folder)."
        )
    serve = loaded.signatures[names[0]]
    inputs, outputs = serve.structured_input_signature[1], serve.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs. Expected an image "
            "classifier with one input and one output."
        )
    return serve


def _frozen(path: Path, signature: Any) -> Any:
    """The function with constants in place of its variables."""
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if _operations(signature) & CHANGES_ITSELF:
        # Keras 3 exports augmentation layers as if they were trained.
        raise UserError(
            f"{path} draws random numbers when it answers. Keras exports augmentation layers "
            "(RandomFlip and others) so. Remove them and export again, or give the .keras file of "
            "the model."
        )
    function = convert_variables_to_constants_v2(signature)
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


def _operations(function: Any) -> set[str]:
    """The kinds of operations that a function runs, those of inner functions included."""
    graph = function.graph.as_graph_def()
    inner = {part.signature.name: part for part in graph.library.function}
    kinds: set[str] = set()
    entered: set[str] = set()
    nodes = list(graph.node)
    while nodes:
        node = nodes.pop()
        kinds.add(node.op)
        called = {attribute.func.name for attribute in node.attr.values()} & set(inner)
        for name in called - entered:
            entered.add(name)
            nodes.extend(inner[name].node_def)
    return kinds
