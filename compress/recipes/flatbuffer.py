"""The bytes of a .tflite file: what is read from them, and what recipes change in them."""

from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from compress.graph.inference import INPUT
from compress.int8.histogram import Range
from compress.int8.precision import Operation

SIGNATURE = "serving_default"
BUFFER_ALIGNMENT = 16
"""Bytes; the schema asks for it (force_align)."""
DEQUANTIZE_BY_CHANNEL = 5
"""The version of DEQUANTIZE that takes a scale for each channel."""
Op = schema.BuiltinOperator
# The axis of a kernel that counts output channels: int8 weights have a scale for each.
CHANNEL_AXIS = {Op.CONV_2D: 0, Op.DEPTHWISE_CONV_2D: 3, Op.FULLY_CONNECTED: 0}


def operations(content: bytes) -> list[Operation]:
    """The operations of a TFLite file in their order; constants are no inputs."""
    graph = _unpacked(content).subgraphs[0]
    computed = {int(i) for operator in graph.operators for i in operator.outputs}
    computed |= {int(i) for i in graph.inputs}

    def names(indices: Any) -> list[str]:
        return [graph.tensors[i].name.decode() for i in indices if int(i) in computed]

    listed = [(names(operator.inputs), names(operator.outputs)) for operator in graph.operators]
    return [Operation(outputs[0], inputs, outputs) for inputs, outputs in listed]


def edge_types(content: bytes) -> tuple[str, str]:
    """The types of a file's input and output ("float32", "uint8" ...)."""
    graph = _unpacked(content).subgraphs[0]
    names = {
        value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()
    }
    first, last = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    return names[first.type], names[last.type]


def with_ranges(content: bytes, ranges: dict[str, Range]) -> bytes:
    """A float file that says which range each tensor has, as the quantizer reads it."""
    model = _unpacked(content)
    for tensor in model.subgraphs[0].tensors:
        if (name := tensor.name.decode()) in ranges:
            tensor.quantization = schema.QuantizationParametersT()
            low, high = ranges[name]
            tensor.quantization.min, tensor.quantization.max = [low], [high]
    return packed(model)


def with_names(content: bytes, output: str) -> bytes:
    """The same file with input and output named, as tensors and in its one signature."""
    model = _unpacked(content)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [_named(graph, graph.inputs[0], INPUT)]
    signature.outputs = [_named(graph, graph.outputs[0], output)]
    model.signatureDefs = [signature]
    return packed(model)


def with_int8_kernels(content: bytes) -> bytes:
    """A float file whose kernels are kept as int8, one scale for each output channel.

    A DEQUANTIZE ahead of everything makes floats of each; runtimes do it once, as they load.
    """
    model = _unpacked(content)
    graph = model.subgraphs[0]
    dequantize = _dequantize_code(model)
    added: dict[int, Any] = {}
    for kind, operator in _operators(model):
        index = int(operator.inputs[1]) if kind in CHANNEL_AXIS else -1
        if index < 0 or index in added or not _is_constant(model, index):
            continue
        kernel = graph.tensors[index]
        steps, scales = _rounded(_values(model, kernel), CHANNEL_AXIS[kind])
        twin = schema.TensorT()
        twin.name, twin.shape = kernel.name + b"_int8", kernel.shape
        twin.type, twin.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
        twin.quantization.scale, twin.quantization.zeroPoint = scales, np.zeros(len(scales), int)
        twin.quantization.quantizedDimension = CHANNEL_AXIS[kind]
        twin.buffer = _new_buffer(model, steps)
        kernel.buffer = 0  # the empty one: computed now
        graph.tensors.append(twin)
        added[index] = schema.OperatorT()
        added[index].opcodeIndex = dequantize
        added[index].inputs, added[index].outputs = [len(graph.tensors) - 1], [index]
    graph.operators = [*added.values(), *graph.operators]
    return packed(_without_unused_buffers(model))


def _operators(model: Any) -> Iterator[tuple[int, Any]]:
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        yield max(code.builtinCode, code.deprecatedBuiltinCode), operator


def _dequantize_code(model: Any) -> int:
    """The index of DEQUANTIZE, which is added to the model's own operators."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = Op.DEQUANTIZE
    code.version = DEQUANTIZE_BY_CHANNEL
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _rounded(kernel: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 steps of a kernel, and the size of a step for each index along an axis."""
    others = tuple(i for i in range(kernel.ndim) if i != axis)
    scales = np.maximum(np.abs(kernel).max(axis=others, keepdims=True), 1e-12) / 127
    return np.round(kernel / scales).astype("int8"), scales.ravel().astype("float32")


def _is_constant(model: Any, index: int) -> bool:
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    return tensor.type == schema.TensorType.FLOAT32 and data is not None and len(data) > 0


def _values(model: Any, tensor: Any) -> np.ndarray:
    """The values of a float32 constant, float64."""
    data = bytes(model.buffers[tensor.buffer].data)
    return np.frombuffer(data, "<f4").reshape(tensor.shape).astype("float64")


def _new_buffer(model: Any, values: np.ndarray) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), "uint8")
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _without_unused_buffers(model: Any) -> Any:
    """Empties what no tensor and no metadata refer to; the numbers of the others stay."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    return model


def _unpacked(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content, 0)


class _AlignedBuilder(flatbuffers.Builder):
    """Packs weights on the boundaries that runtimes expect; the stock builder drops them."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        self.Prep(BUFFER_ALIGNMENT, x.nbytes)
        return int(super().CreateNumpyVector(x))


def packed(model: Any) -> bytes:
    """The bytes of a file given as the schema's ModelT."""
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _named(graph: Any, index: int, name: str) -> Any:
    graph.tensors[index].name = name
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry
