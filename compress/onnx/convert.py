"""The inference of a model as an ONNX model, not yet quantized."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

from compress.graph.inference import TracedModel
from compress.graph.tensor_names import INPUT
from compress.onnx.operations import HANDLERS, REWRITERS
from configs.errors import UserError, ran_out_of_memory
from configs.schema.files import OutputKind

OPSET = 17
"""Of ONNX. Older runtimes on devices read it, and image classifiers need nothing newer."""
CATCH_ERRORS = "TF2ONNX_CATCH_ERRORS"
"""The environment variable by which tf2onnx goes on when one of its optimizers fails."""


def convert_to_onnx(traced: TracedModel, output: OutputKind) -> onnx.ModelProto:
    """The inference of a model as an ONNX model, its input and output named.

    Raises:
        UserError: a layer has no counterpart in ONNX.
    """
    function = traced.frozen_function(output)
    image, answer = function.inputs[0].name, function.outputs[0].name
    graph = function.graph.as_graph_def()
    try:
        with _without_copies():
            converted = _converted(graph, image, answer)
    except Exception as error:  # one of tf2onnx's optimizers failed; with copies, the others go on
        if ran_out_of_memory(error):  # the copies need far more
            raise
        converted = _converted(graph, image, answer)
    _rename_tensors(converted.graph, {image: INPUT, answer: output})
    _split_second_biases(converted.graph)
    try:
        onnx.checker.check_model(converted)
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"tf2onnx could not convert the model: {str(error).splitlines()[0]}.\n"
            "A layer has no counterpart in ONNX. Replace it, or write TFLite (tflite.float32)."
        ) from error
    return converted


def _converted(graph: Any, image: str, answer: str) -> onnx.ModelProto:
    import tf2onnx

    with _constants_stay():
        converted, _ = tf2onnx.convert.from_graph_def(
            graph,
            input_names=[image],
            output_names=[answer],
            opset=OPSET,
            custom_op_handlers=HANDLERS,
            custom_rewriter=REWRITERS,
        )
    return converted


@contextmanager
def _constants_stay() -> Iterator[None]:
    """Inside the block, tf2onnx does not write the constants anew after each pass.

    Nobody reads what it writes there: the model takes constants from another place. And protobuf
    keeps the old bytes, so 48 passes over a NASNetLarge kept 16 GB.
    """
    from tf2onnx.graph import Node

    update = Node.update_proto

    def update_others(node: Any, *args: Any, **kwargs: Any) -> None:
        if not node.is_const():
            update(node, *args, **kwargs)

    Node.update_proto = update_others
    try:
        yield
    finally:
        Node.update_proto = update


@contextmanager
def _without_copies() -> Iterator[None]:
    """Inside the block, tf2onnx does not copy the graph for each pass of each of its optimizers.

    The copies of an EfficientNetV2M fill more than 18 GB, and take half the time of a B0. They are
    what tf2onnx goes back to when an optimizer fails.
    """
    before = os.environ.get(CATCH_ERRORS)
    os.environ[CATCH_ERRORS] = "FALSE"
    try:
        yield
    finally:
        del os.environ[CATCH_ERRORS]
        if before is not None:
            os.environ[CATCH_ERRORS] = before


def _rename_tensors(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    taken = {tensor for node in graph.node for tensor in (*node.input, *node.output)} - set(names)
    assert not taken & set(names.values()), f"{taken & set(names.values())} named twice"
    for tensor in (*graph.input, *graph.output):
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]


def _split_second_biases(graph: onnx.GraphProto) -> None:
    """Add the second bias of a Conv with a node of its own; a Conv of ONNX has only one.

    tf2onnx makes this mistake where feature maps are one pixel large. It takes the other input of
    a residual connection for a second bias, (channels,).
    """
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "second_bias_axes")
    for node in list(graph.node):
        if node.op_type != "Conv" or len(node.input) <= 3:
            continue
        second, result = node.input.pop(), node.output[0]
        node.output[0] = f"{result}_first_bias"
        summand = f"{result}_second_bias"
        added = [
            onnx.helper.make_node("Unsqueeze", [second, axes.name], [summand], name=summand),
            onnx.helper.make_node("Add", [node.output[0], summand], [result], name=result),
        ]
        index = list(graph.node).index(node) + 1
        for offset, new_node in enumerate(added):
            graph.node.insert(index + offset, new_node)
        if axes.name not in {tensor.name for tensor in graph.initializer}:
            graph.initializer.append(axes)
