"""A foreign ONNX model that takes raw pixels, channels last, and returns probabilities."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.graph.tensor_names import INPUT
from configs.contract import OWN_PIXELS, InputContract
from configs.errors import UserError

PREFIX = "potstill_"
"""The beginning of all names that are added, so that they are new."""
OUTPUT = "probabilities"
SCALED = PREFIX + "scaled_pixels"
"""The tensor that the first layer of the foreign model reads."""
OLDEST_OPSET = 13
"""The first in which weights can be rounded by channel."""


def with_raw_pixels(model: onnx.ModelProto, contract: InputContract) -> onnx.ModelProto:
    """The model with its input contract inside.

    Args:
        model: one image to one answer. Its batch is fixed at 1 in the result.
        contract: of the model; its kind of answers is known.

    Returns:
        float32 (1, height, width, 3), 0..255, or 1 channel, to (1, classes).

    Raises:
        UserError: the model cannot be rewritten.
    """
    model = _at_opset(model)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    (image,) = [tensor for tensor in graph.input if tensor.name not in constants]
    (answer,) = graph.output
    sizes = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    is_first = contract.layout == "nchw" or (contract.layout is None and sizes[1] in (1, 3))
    num_channels = 1 if contract.channels == "grey" else 3
    height, width = sizes[2:4] if is_first else sizes[1:3]
    _rename(graph, image.name, SCALED)
    for name in (INPUT, OUTPUT):
        _rename(graph, name, f"{PREFIX}foreign_{name}")
    answer_name = f"{PREFIX}foreign_{OUTPUT}" if answer.name == OUTPUT else answer.name
    graph.ClearField("input")
    graph.input.append(
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, height, width, num_channels])
    )
    before = _input_nodes(graph, contract, num_channels=num_channels, channels_first=is_first)
    after = _answer_nodes(graph, answer_name, contract)
    nodes = [*before, *graph.node, *after]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("value_info")  # of the old shapes
    graph.ClearField("output")
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None))
    inferred = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(inferred)
    return inferred


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    (opset,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if opset >= OLDEST_OPSET:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # the converter's own classes share no base but this
        raise UserError(
            f"the model is written in opset {opset}, and int8 needs {OLDEST_OPSET}. It could not "
            f"be converted: {str(error).splitlines()[0]}. Export it again with opset 17."
        ) from None


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _input_nodes(
    graph: onnx.GraphProto, contract: InputContract, *, num_channels: int, channels_first: bool
) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []
    tensor = INPUT

    def add(kind: str, name: str, *constants: np.ndarray, **attributes: object) -> None:
        nonlocal tensor
        inputs = [tensor]
        for i, values in enumerate(constants):
            graph.initializer.append(numpy_helper.from_array(values, f"{name}_{i}"))
            inputs.append(f"{name}_{i}")
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        tensor = name

    if contract.pixels != OWN_PIXELS:
        mean, std = (
            np.array(values[:num_channels], "float32")
            for values in (contract.pixels.mean, contract.pixels.std)
        )
        add("Sub", PREFIX + "pixels_minus_mean", mean)
        add("Div", PREFIX + "pixels_by_std", std)
    if contract.channels == "bgr":
        add("Gather", PREFIX + "pixels_bgr", np.array([2, 1, 0]), axis=3)
    if channels_first:
        add("Transpose", PREFIX + "pixels_first", perm=[0, 3, 1, 2])
    if not nodes:
        add("Identity", PREFIX + "pixels")
    nodes[-1].output[:] = [SCALED]
    return nodes


def _answer_nodes(
    graph: onnx.GraphProto, answer: str, contract: InputContract
) -> list[onnx.NodeProto]:
    """From the answers to (1, classes) of probabilities, or of scores."""
    (output,) = graph.output
    shape = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
    num_outputs = shape[-1] or max(shape[1:], default=0)
    flat = numpy_helper.from_array(np.array([1, -1]), PREFIX + "answer_shape")
    graph.initializer.append(flat)
    answers, first, second, one = (PREFIX + n for n in ("answers", "first", "second", "one"))
    nodes = [helper.make_node("Reshape", [answer, flat.name], [answers], answers)]
    if num_outputs != 1:
        kind = "Softmax" if contract.answers == "logits" else "Identity"
        attributes = {"axis": 1} if kind == "Softmax" else {}
        return [
            *nodes,
            helper.make_node(kind, [answers], [OUTPUT], PREFIX + OUTPUT, **attributes),
        ]
    tensor = answers
    if contract.answers == "logits":
        nodes.append(helper.make_node("Sigmoid", [tensor], [second], second))
        tensor = second
    graph.initializer.append(numpy_helper.from_array(np.array(1, "float32"), one))
    return [
        *nodes,
        helper.make_node("Sub", [one, tensor], [first], first),
        helper.make_node("Concat", [first, tensor], [OUTPUT], PREFIX + OUTPUT, axis=1),
    ]
