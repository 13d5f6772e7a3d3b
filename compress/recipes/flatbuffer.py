"""The bytes of a .tflite file: what recipes read from them, and what they change in them."""

import re
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from compress.graph.kernels import step_size
from compress.graph.tensor_names import INPUT
from compress.int8.histogram import Range
from compress.int8.precision import Operation
from configs.schema.files import OutputKind

SIGNATURE = "serving_default"
BUFFER_ALIGNMENT = 16
"""Bytes; the schema demands it (force_align)."""
DEQUANTIZE_BY_CHANNEL = 5
"""The version of DEQUANTIZE that takes a scale for each channel."""
SINCE_DEQUANTIZE_BY_CHANNEL = "2.7.0"
"""The first TFLite that has this version."""
LEAST_RUNTIME = b"min_runtime_version"
"""The metadata in which TensorFlow's converter writes the first TFLite that opens the file."""
LEAST_RUNTIME_BYTES = 16
Op = schema.BuiltinOperator
CHANNEL_AXIS = {Op.CONV_2D: 0, Op.DEPTHWISE_CONV_2D: 3, Op.FULLY_CONNECTED: 0}
"""The axis of a kernel that counts the output channels, each of which has a scale in int8."""


def operations_of(content: bytes) -> list[Operation]:
    """The operations of a TFLite file in their order."""
    graph = _unpack(content).subgraphs[0]
    computed = {int(i) for operator in graph.operators for i in operator.outputs}
    computed |= {int(i) for i in graph.inputs}

    def names(indices: Any) -> list[str]:
        return [graph.tensors[i].name.decode() for i in indices if int(i) in computed]

    tensors = [(names(operator.inputs), names(operator.outputs)) for operator in graph.operators]
    return [Operation(outputs[0], inputs, outputs) for inputs, outputs in tensors]


def edge_types(content: bytes) -> tuple[str, str]:
    """The types of the input and the output of a file ("float32", "uint8" ...)."""
    graph = _unpack(content).subgraphs[0]
    names = {
        value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()
    }
    first, last = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    return names[first.type], names[last.type]


def operator_names(content: bytes) -> set[str]:
    """The kinds of operators in a TFLite file, as "CONV_2D"."""
    names = {value: name for name, value in vars(Op).items() if isinstance(value, int)}
    return {names[kind] for kind, _ in _operators(_unpack(content))}


def least_runtime(content: bytes) -> str | None:
    """The first version of TFLite that opens a file, as "2.17"; None if the file does not say."""
    buffer = _least_runtime_buffer(_unpack(content))
    version = b"" if buffer is None else bytes(buffer.data).rstrip(b"\0")
    numbers = re.fullmatch(rb"\d+\.\d+(\.\d+)*", version)
    return numbers[0].decode().removesuffix(".0") if numbers else None


def with_least_runtime(content: bytes, version: str) -> bytes:
    """The same file, which says that it needs at least this version of TFLite ("2.7.0")."""
    model = _unpack(content)
    _raise_least_runtime(model, version)
    return pack(model)


def _least_runtime_buffer(model: Any) -> Any:
    for entry in model.metadata or []:
        if entry.name == LEAST_RUNTIME:
            return model.buffers[entry.buffer]
    return None


def _raise_least_runtime(model: Any, version: str) -> None:
    buffer = _least_runtime_buffer(model)
    before = bytes(buffer.data).rstrip(b"\0").decode()
    latest = max([before or version, version], key=lambda text: [*map(int, text.split("."))])
    padded = latest.encode().ljust(LEAST_RUNTIME_BYTES, b"\0")
    buffer.data = np.frombuffer(padded, "uint8")


def with_ranges(content: bytes, ranges: dict[str, Range]) -> bytes:
    """A float file that has a range for each tensor, in the form that the quantizer reads."""
    model = _unpack(content)
    for tensor in model.subgraphs[0].tensors:
        if (name := tensor.name.decode()) in ranges:
            tensor.quantization = schema.QuantizationParametersT()
            low, high = ranges[name]
            tensor.quantization.min, tensor.quantization.max = [low], [high]
    return pack(model)


def with_names(content: bytes, output: OutputKind) -> bytes:
    """The same file with its input and output named, as tensors and in its one signature."""
    model = _unpack(content)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [_name_tensor(graph, graph.inputs[0], INPUT)]
    signature.outputs = [_name_tensor(graph, graph.outputs[0], output)]
    model.signatureDefs = [signature]
    return pack(model)


def _name_tensor(graph: Any, index: int, name: str) -> Any:
    """Rename a tensor; returns its entry for the signature."""
    graph.tensors[index].name = name
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry


def with_int8_kernels(content: bytes) -> bytes:
    """A float file whose kernels are stored as int8, with one scale for each output channel.

    DEQUANTIZE operations at its start make floats of them. Runtimes execute these once, when they
    load the file.
    """
    model = _unpack(content)
    graph = model.subgraphs[0]
    dequantize = _add_dequantize(model)
    added: dict[int, Any] = {}
    for kind, operator in _operators(model):
        index = int(operator.inputs[1]) if kind in CHANNEL_AXIS else -1
        if index < 0 or index in added or not _is_constant(model, index):
            continue
        graph.tensors.append(_int8_twin(model, graph.tensors[index], CHANNEL_AXIS[kind]))
        graph.tensors[index].buffer = 0  # the empty buffer: the tensor is computed now
        added[index] = schema.OperatorT()
        added[index].opcodeIndex = dequantize
        added[index].inputs, added[index].outputs = [len(graph.tensors) - 1], [index]
    graph.operators = [*added.values(), *graph.operators]
    _raise_least_runtime(model, SINCE_DEQUANTIZE_BY_CHANNEL)
    _empty_unused_buffers(model)
    return pack(model)


def _operators(model: Any) -> Iterator[tuple[int, Any]]:
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        yield max(code.builtinCode, code.deprecatedBuiltinCode), operator


def _add_dequantize(model: Any) -> int:
    """The index of DEQUANTIZE, which is added to the operator codes of the model."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = Op.DEQUANTIZE
    code.version = DEQUANTIZE_BY_CHANNEL
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _is_constant(model: Any, index: int) -> bool:
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    return tensor.type == schema.TensorType.FLOAT32 and data is not None and len(data) > 0


def _int8_twin(model: Any, kernel: Any, axis: int) -> Any:
    """A new tensor with the int8 steps of a float32 kernel."""
    values = np.frombuffer(bytes(model.buffers[kernel.buffer].data), "<f4").reshape(kernel.shape)
    values = values.astype("float64")
    step = np.asarray(step_size(values, (axis,)))
    steps = np.round(values / step).astype("int8")
    twin = schema.TensorT()
    twin.name, twin.shape = kernel.name + b"_int8", kernel.shape
    twin.type, twin.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
    twin.quantization.scale = step.ravel().astype("float32")
    twin.quantization.zeroPoint = np.zeros(step.size, int)
    twin.quantization.quantizedDimension = axis
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(steps.tobytes(), "uint8")
    twin.buffer = len(model.buffers)
    model.buffers.append(buffer)
    return twin


def _empty_unused_buffers(model: Any) -> None:
    """Empty the buffers that no tensor and no metadata refer to; the others keep their numbers."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


def _unpack(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content, 0)


class _AlignedBuilder(flatbuffers.Builder):
    """Puts weights on the boundaries that runtimes expect; the stock builder does not."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        self.Prep(BUFFER_ALIGNMENT, x.nbytes)
        return int(super().CreateNumpyVector(x))


def pack(model: Any) -> bytes:
    """The bytes of a file from the ModelT of the schema."""
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
