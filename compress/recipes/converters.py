"""Converters: the inference of a model as a TFLite file or an ONNX model, not yet quantized."""

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from compress.graph.inference import TracedModel
from compress.graph.tensor_names import INPUT
from configs.errors import UserError
from configs.schema import OutputKind

CONTROL_FLOW = {"Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"}
"""Operations of TensorFlow that have other operations inside."""
OPSET = 17
"""Of ONNX. Older runtimes on devices read it, and image classifiers need nothing newer."""


@contextlib.contextmanager
def quiet_converters() -> Iterator[None]:
    """Keep the output of converters off standard output, and their notes out of the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def tflite_converter(traced: TracedModel, output: OutputKind) -> Any:
    """A TFLiteConverter of the inference of a model."""
    function = traced.function(output)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    # With the default it would write a SavedModel, read it again, and freeze it all the same.
    converter.experimental_lower_to_saved_model = False
    return converter


def tflite_integer_converter(traced: TracedModel, output: OutputKind) -> Any:
    """The same for a file in which every tensor gets a range.

    Raises:
        UserError: the model has loops or conditions; TensorFlow's calibration crashes on them.
    """
    graph = traced.function(output).graph.as_graph_def()
    if CONTROL_FLOW & set(_operation_types(graph)):
        raise UserError(
            f"model {traced.model.name!r} has loops or conditions (a GRU is one), and no "
            "int8 or int16 ranges are known inside of them. Build its layers with "
            "unroll=True, or choose tflite.dynamic or tflite.weights."
        )
    return tflite_converter(traced, output)


def _operation_types(graph: Any) -> Iterator[str]:
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        yield from (node.op for node in nodes)


def run_tflite_converter(converter: Any) -> bytes:
    """The file that a TFLiteConverter makes.

    Raises:
        UserError: a layer has no counterpart in TFLite.
    """
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        with quiet_converters():
            return bytes(converter.convert())
    except (ConverterError, RuntimeError) as error:
        message = str(error).strip()
        culprit = re.search(
            r"^(Custom|Flex|TF Select) ops: .*|^.*not yet supported.*", message, re.MULTILINE
        )
        reason = culprit.group() if culprit else message.splitlines()[0][:300]
        raise UserError(
            f"the TFLite converter refused the model: {reason}\n"
            "A layer has no counterpart in TFLite. Replace it, or choose a recipe that has one."
        ) from error


def convert_to_onnx(traced: TracedModel, output: OutputKind) -> onnx.ModelProto:
    """The inference of a model as an ONNX model, its input and output named.

    Raises:
        UserError: a layer has no counterpart in ONNX.
    """
    import tf2onnx

    function = traced.frozen_function(output)
    image, answer = function.inputs[0].name, function.outputs[0].name
    converted, _ = tf2onnx.convert.from_graph_def(
        function.graph.as_graph_def(),
        input_names=[image],
        output_names=[answer],
        opset=OPSET,
    )
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
