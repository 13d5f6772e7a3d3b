"""The clock of latency: executes one model file and times every execution.

This is one long file because it is copied to devices alone. It needs Python 3.9 or later, numpy
and a runtime, and nothing of Potstill. As a program it answers JSON lines with JSON lines:

    python probe.py FILE --num-threads 1
    <- {"ready": true, "load_ms": ..., "first_ms": ..., "runtime": ..., "state": ..., ...}
    -> {"run": 20}          <- {"times_ms": [...]}
    -> {"image": "base64"}  <- {"answer": [...]}
    -> {"state": true}      <- {"state": {"cpu": ..., "governor": ..., "temperature_c": ..., ...}}
    -> {"profile": 20}      <- {"operators": [{"operator": ..., "ms": ..., ...}]}
    -> {"reopen": true}     <- the first message again, from a new process
    -> {"quit": true}       <- {"peak_rss_mib": ..., "state": ...}

With `--marker TEXT` every answer stands on a line of its own that begins with the text. So the
caller can tell answers from whatever else arrives on the same connection.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import mmap
import os
import platform
import re
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Union  # noqa: UP035 - for Python 3.9

import numpy as np


class ModelFileError(ValueError):
    """A file cannot be executed; the message says what is wrong with it."""


@dataclass(frozen=True)
class Delegate:
    """How many of a file's operators a delegate of LiteRT executes.

    Attributes:
        others: how many operators of each kind it leaves to slower code; None in older results.
    """

    name: str
    num_partitions: int
    num_ops: int
    num_delegated_ops: int
    others: dict[str, int] | None = None


@dataclass(frozen=True)
class Readings:
    """What of a machine's state changes while it works; None where the machine does not say."""

    mhz: float | None = None
    temperature_c: float | None = None
    load: float | None = None


@dataclass(frozen=True)
class MachineState:
    """What affects times on a machine; None where the machine does not say.

    Attributes:
        isa: the instruction sets that int8 arithmetic can use.
        cores: those that the process may run on, by their numbers.
        mhz: of the fastest of these cores now.
        temperature_c: of the warmest sensor.
        load: processes that wanted to run, on average over the last minute.
        after: the readings at the end of a measurement.
    """

    cpu: str | None = None
    isa: tuple[str, ...] | None = None
    num_cores: int | None = None
    cores: tuple[int, ...] | None = None
    os: str | None = None
    python: str | None = None
    governor: str | None = None
    mhz: float | None = None
    temperature_c: float | None = None
    load: float | None = None
    after: Readings | None = None

    def readings(self) -> Readings:
        """What changes while the machine works."""
        return Readings(self.mhz, self.temperature_c, self.load)


@dataclass(frozen=True)
class Ready:
    """The first message of a probe: its file is loaded and was executed once.

    Attributes:
        num_threads: where they are other than those that were asked for.
    """

    load_ms: float
    first_ms: float
    runtime: str
    runtime_version: str
    batch: int
    delegate: Delegate | None = None
    state: MachineState = MachineState()
    num_threads: int | None = None

    @property
    def runtime_name(self) -> str:
        """The runtime with its version, as results call it."""
        return f"{self.runtime} {self.runtime_version}".strip()


@dataclass(frozen=True)
class Finished:
    """The last message of a probe."""

    peak_rss_mib: float | None
    state: MachineState = MachineState()


@dataclass(frozen=True)
class OperatorTime:
    """How long the operators of one type take in an execution, all of them together."""

    operator: str
    num_nodes: int
    ms: float


@dataclass(frozen=True)
class Edge:
    """The numbers that go into a file or come out of it.

    Attributes:
        dtype: of numpy.
        scale: a whole number n stands for (n - zero) * scale. None: it stands for itself.
    """

    dtype: str
    scale: float | None = None
    zero: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the numbers are whole and stand for themselves, as bytes of a photo do."""
        return self.scale is None and np.dtype(self.dtype).kind in "iu"

    @property
    def limits(self) -> tuple[float, float] | None:
        """The smallest and the largest value; None for floats and without a scale."""
        if self.scale is None:
            return None
        limits = np.iinfo(self.dtype)
        low, high = [(n - self.zero) * self.scale for n in (limits.min, limits.max)]
        return low, high

    def encoded(self, values: np.ndarray) -> np.ndarray:
        """Values in the type of the edge: rounded, and limited to what it can hold."""
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return values.astype(dtype, copy=False)
        limits = np.iinfo(dtype)
        numbers = np.round(values / (self.scale or 1.0) + self.zero)
        return np.clip(numbers, limits.min, limits.max).astype(dtype)

    def decoded(self, numbers: np.ndarray) -> np.ndarray:
        """The values that numbers of the edge stand for, float32."""
        values = np.asarray(numbers, "float32")
        return values if self.scale is None else (values - self.zero) * np.float32(self.scale)


class TfliteModel:
    """A `.tflite` file in LiteRT, with channels last or first."""

    runtime = "litert"

    def __init__(
        self,
        path: Path,
        num_threads: int,
        image_size: int | None,
        layout: str | None,
        output: str | None,
    ) -> None:
        with open(path, "rb") as file:
            content = file.read(32)
        if len(content) < 32 or content[4:8] != b"TFL3":
            raise ModelFileError("it is no TFLite model (its identifier TFL3 is missing)")
        interpreter, self.runtime_version = _litert()
        try:
            # Verifies the flatbuffer: a truncated file ends here.
            self._interpreter = interpreter(model_path=str(path), num_threads=num_threads)
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
            _check_one_image(inputs)
            answer = _answer([tensor["name"] for tensor in outputs], output)
            shape = [int(n) for n in inputs[0]["shape_signature"]]
            batch, self.input_shape, self.channels_first = _image_shape(shape, image_size, layout)
            self.batch = batch or 1
            image = _black(self.batch, self.input_shape)
            self._interpreter.resize_tensor_input(
                inputs[0]["index"], _in_order(image, self.channels_first).shape
            )
            _check_sizes(self._interpreter.get_tensor_details(), self.batch)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(_tflite_problem(str(error))) from None
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[answer]
        self.input, self.output = _tflite_edge(self._input), _tflite_edge(self._output)
        _check_edges(self.input, self.output)
        self.num_classes = _num_classes(self._output["shape"], self.batch)
        self.delegate = _delegate(self._interpreter)
        self._set_input(image)

    @cached_property
    def answers(self) -> str | None:
        """What the answers are, as far as the last operator says it (see `_kind_of_answers`)."""
        nodes = [
            Node(node["op_name"], list(node["inputs"]), list(node["outputs"]))
            for node in _nodes(self._interpreter)
            if node["op_name"] != "DELEGATE"
        ]
        last = _last_operator(nodes, self._output["index"])
        return _kind_of_answers(last, self.num_classes)

    def _set_input(self, images: np.ndarray) -> None:
        images = _in_order(images, self.channels_first)
        self._interpreter.set_tensor(self._input["index"], self.input.encoded(images))

    def run_once(self) -> None:
        """Execute the file on the input that was set last."""
        self._interpreter.invoke()

    def profile(self, count: int) -> list[OperatorTime]:
        raise ModelFileError(
            "LiteRT does not report the times of operators to Python. Its program benchmark_model "
            "does (--enable_op_profiling=true)"
        )

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        with _execution():
            self._set_input(images)
            self._interpreter.invoke()
            return self.output.decoded(self._interpreter.get_tensor(self._output["index"]))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The answers of the file, float32 (n, classes), to float32 (n, *input_shape)."""
        return _in_batches(self, images)


def _tflite_edge(details: dict[str, Any]) -> Edge:
    scale, zero = details["quantization"]
    dtype = np.dtype(details["dtype"])
    return Edge(dtype.name, float(scale) if scale and dtype.kind in "iu" else None, int(zero))


def _tflite_problem(error: str) -> str:
    """What is wrong with a file, from what LiteRT says of it."""
    if EDGE_TPU in error:
        return (
            f"it is compiled for the Edge TPU (its operator {EDGE_TPU} runs nowhere else). Give "
            "the file that it was compiled from: NAME.tflite instead of NAME_edgetpu.tflite"
        )
    missing = re.search(r"custom op: ([\w.-]*\w)|\((Flex\w+)\)", error)
    if missing:
        return (
            f"this runtime lacks its operator {missing[1] or missing[2]}, which is not one of "
            "TensorFlow Lite's own: convert the model with TFLITE_BUILTINS alone"
        )
    return f"it is damaged, or this runtime lacks one of its operators ({error})"


EDGE_TPU = "edgetpu-custom-op"
"""The operator that the Edge TPU compiler puts in place of those that it compiled."""


def _nodes(interpreter: Any) -> list[dict[str, Any]]:
    """The operators and delegates of a file; none where LiteRT cannot name them."""
    try:
        return list(interpreter._get_ops_details())
    except (AttributeError, UnicodeDecodeError):  # a name of a damaged file is no text
        return []


def _delegate(interpreter: Any) -> Delegate | None:
    """How many operators XNNPACK executes; it is the one delegate that LiteRT applies by itself.

    LiteRT lists the operators that a delegate replaces as well as the delegate. This walks back
    from the outputs. Where an operator and a delegate write the same tensor, the delegate does.
    """
    nodes = _nodes(interpreter)
    if not nodes:
        return None
    partitions = [node for node in nodes if node["op_name"] == "DELEGATE"]
    operators = [node for node in nodes if node["op_name"] != "DELEGATE"]
    writers = {tensor: node for node in [*operators, *partitions] for tensor in node["outputs"]}
    tensors = [details["index"] for details in interpreter.get_output_details()]
    executed = set()
    while tensors:
        node = writers.get(tensors.pop())
        if node is not None and node["index"] not in executed:
            executed.add(node["index"])
            tensors += list(node["inputs"])
    others = [node["op_name"] for node in operators if node["index"] in executed]
    counts = {name: others.count(name) for name in sorted(set(others))}
    num_delegated = len(operators) - len(others)
    return Delegate("XNNPACK", len(partitions), len(operators), num_delegated, counts)


def _litert() -> tuple[Any, str]:
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, _version("ai-edge-litert")
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise ModelFileError(
                "no runtime for .tflite files is installed: pip install ai-edge-litert"
            ) from None
        return Interpreter, _version("tflite-runtime")


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ModelFileError(
            "no runtime for .onnx files is installed: pip install onnxruntime"
        ) from None
    return onnxruntime


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise ModelFileError("OpenVINO is not installed: pip install openvino") from None
    return openvino


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _check_one_image(inputs: list[Any]) -> None:
    if len(inputs) != 1:
        raise ModelFileError(
            f"{len(inputs)} inputs; expected one image: export it again with this alone"
        )


MAX_TENSOR_BYTES = 2**30
"""For all images of the input, or a tensor of one image. EfficientNetB7 at 600 px needs a
fifteenth: 300 x 300 x 192 floats."""


def _black(batch: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Black images, float32 (batch, *shape)."""
    _check_size("input", [batch, *shape], 4, MAX_TENSOR_BYTES)
    return np.zeros((batch, *shape), "float32")


def _check_sizes(tensors: list[Any], batch: int) -> None:
    """LiteRT would reserve what a damaged file of some kilobytes asks for."""
    for tensor in tensors:
        shape, item_bytes = [int(n) for n in tensor["shape"]], np.dtype(tensor["dtype"]).itemsize
        _check_size(f"tensor {tensor['name']}", shape, item_bytes, batch * MAX_TENSOR_BYTES)


def _check_size(name: str, shape: list[int], item_bytes: int, limit: int) -> None:
    size = item_bytes * math.prod(shape)
    if size > limit:
        raise ModelFileError(
            f"its {name} of shape {shape} would take {size / 2**30:.0f} GiB, which no classifier "
            "of photos needs"
        )


def _answer(outputs: list[str], name: str | None) -> int:
    """Which of the outputs answers: the one of that name, or the only one."""
    if name in outputs:
        return outputs.index(name)
    names = ", ".join(outputs)
    if name is not None:
        raise ModelFileError(f"no output {name}; its outputs are {names}")
    if len(outputs) != 1:
        raise ModelFileError(
            f"{len(outputs)} outputs ({names}); expected one. evaluate accuracy and evaluate "
            "predict take one by its name: --output-layer. Else export the file again with one"
        )
    return 0


def _check_edges(first: Edge, last: Edge) -> None:
    kinds = [np.dtype(edge.dtype).kind for edge in (first, last)]
    if kinds[0] not in "fiu":
        raise ModelFileError(f"input of type {first.dtype}; expected numbers")
    if kinds[1] != "f" and last.scale is None:
        raise ModelFileError(
            f"output of type {last.dtype} without a scale; expected a number for each class: "
            "export the model up to its logits or probabilities"
        )


def _image_shape(
    shape: list[Any], image_size: int | None, layout: str | None
) -> tuple[int | None, tuple[int, int, int], bool]:
    """The batch (None if any), (height, width, channels), and whether the channels come first.

    Args:
        layout: "nhwc" or "nchw". None: as the shape says, or nhwc where it fits both.
    """
    if len(shape) != 4:
        raise ModelFileError(
            f"input of shape {shape}; expected (batch, height, width, 3), or channels first"
        )
    sizes = [n if isinstance(n, int) and n > 0 else None for n in shape]
    is_first = layout == "nchw" or (
        layout is None and sizes[1] in (1, 3) and sizes[3] not in (1, 3)
    )
    batch, height, width, channels = [sizes[i] for i in (0, 2, 3, 1)] if is_first else sizes
    if channels not in (1, 3):
        place = f" where {layout} has its channels" if layout else ""
        raise ModelFileError(
            f"input of shape {shape}; expected three channels (RGB) or one (grey){place}"
        )
    if image_size and (height or image_size, width or image_size) != (image_size, image_size):
        raise ModelFileError(f"input of shape {shape}; expected {image_size} x {image_size} pixels")
    height, width = height or image_size, width or image_size
    if height is None or width is None:
        raise ModelFileError(
            f"input of shape {shape} without a fixed height and width: export it with both, as in "
            "(1, 224, 224, 3)"
        )
    return batch, (height, width, channels), is_first


def _in_order(images: np.ndarray, channels_first: bool) -> np.ndarray:
    """Images (batch, height, width, channels) as a file takes them."""
    return images.transpose(0, 3, 1, 2) if channels_first else images


def _num_classes(shape: Any, batch: int) -> int:
    """The number of classes of an output: (batch, classes), (batch, classes, 1, 1) and the like.

    An output (batch, 1) or (batch,) has one class: it is a score.
    """
    numbers = [int(n) for n in shape]
    classes, rest = divmod(int(np.prod(numbers)), batch)
    has_batch = batch == 1 or numbers[:1] == [batch]
    if rest or not has_batch or not classes or classes not in (1, *numbers):
        raise ModelFileError(f"output of shape {numbers}; expected (batch, classes)")
    return classes


@dataclass(frozen=True)
class Node:
    """An operator of a graph, and the tensors that it reads and writes: names or numbers."""

    operator: str
    inputs: list[Any]
    outputs: list[Any]


PASSED = {
    "identity", "cast", "reshape", "squeeze", "unsqueeze", "expanddims", "flatten", "transpose",
    "quantize", "dequantize", "quantizelinear", "dequantizelinear",
}  # fmt: skip
"""Operators that leave the values as they are, as `_plain` writes them."""
LOGITS = {
    "matmul", "gemm", "batchmatmul", "fullyconnected", "conv", "conv2d", "logsoftmax",
    "qlinearmatmul", "qgemm", "qlinearconv",
}  # fmt: skip
SIGMOIDS = {"sigmoid", "logistic", "hardsigmoid", "qlinearsigmoid"}
SOFTMAXES = {"softmax", "qlinearsoftmax"}


def _plain(operator: str) -> str:
    return operator.replace("_", "").lower()


def _last_operator(nodes: list[Node], output: Any, constants: Any = ()) -> str | None:
    """The operator that computes an output, without those behind it that leave it as it is.

    Adding a constant counts as one of these: a bias is added after a multiplication.
    """
    writers = {tensor: node for node in nodes for tensor in node.outputs}
    while output in writers:
        node = writers.pop(output)
        inputs = [tensor for tensor in node.inputs if tensor != "" and tensor not in constants]
        is_bias = _plain(node.operator) == "add" and len(inputs) == 1
        if not is_bias and _plain(node.operator) not in PASSED:
            return node.operator
        output = inputs[0] if inputs else None
    return None


def _kind_of_answers(operator: str | None, num_classes: int) -> str | None:
    """What a file answers with: "logits", "probabilities", "score" or "scores"; None if unknown.

    A score is the probability of the second of two classes; scores are independent probabilities.
    """
    name = _plain(operator or "")
    if name in SIGMOIDS:
        return "score" if num_classes == 1 else "scores"
    if name in SOFTMAXES:
        return "probabilities"
    return "logits" if name in LOGITS else None


class OnnxModel:
    """An `.onnx` file in ONNX Runtime, on the CPU, with channels last or first."""

    runtime = "onnxruntime"
    delegate = None  # the CPU provider executes every operator itself

    def __init__(
        self,
        path: Path,
        num_threads: int,
        image_size: int | None,
        layout: str | None,
        output: str | None,
    ) -> None:
        onnxruntime = _onnxruntime()
        self.runtime_version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._path, self._options = str(path), options
        if not Path(path).stat().st_size:
            raise ModelFileError("empty file")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's own classes share no base but this
            weight_files(path)  # raises if one of these is missing
            raise ModelFileError(
                f"no ONNX model, or a damaged one ({_first_line(error)})"
            ) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        _check_one_image(inputs)
        answer = outputs[_answer([tensor.name for tensor in outputs], output)]
        batch, self.input_shape, self.channels_first = _image_shape(
            list(inputs[0].shape), image_size, layout
        )
        self._name, self._output = inputs[0].name, answer.name
        self.input = self._edge(inputs[0], is_input=True)
        self.output = self._edge(answer, is_input=False)
        _check_edges(self.input, self.output)
        self.batch = batch or 1
        self._feed = self._as_feed(_black(self.batch, self.input_shape))
        self.num_classes = _num_classes(self._output_shape(list(answer.shape)), self.batch)

    @cached_property
    def _graph(self) -> OnnxGraph:
        return onnx_graph(Path(self._path))

    @cached_property
    def answers(self) -> str | None:
        """What the answers are, as far as the last operator says it (see `_kind_of_answers`)."""
        last = _last_operator(self._graph.nodes, self._output, self._graph.constants)
        return _kind_of_answers(last, self.num_classes)

    def _edge(self, tensor: Any, *, is_input: bool) -> Edge:
        name = tensor.type[len("tensor(") : -1]
        dtype = {"float": "float32", "double": "float64"}.get(name, name)
        if not re.fullmatch("float(16|32|64)|u?int(8|16|32|64)", dtype):
            raise ModelFileError(
                f"{'input' if is_input else 'output'} of type {tensor.type}; expected numbers"
            )
        is_byte = dtype in ("int8", "uint8", "int16", "uint16")
        scale, zero = self._graph.scale(tensor.name, is_input=is_input) if is_byte else (None, 0)
        return Edge(dtype, scale, zero)

    def _output_shape(self, declared: list[Any]) -> list[int]:
        """The shape of an output; of an execution, for files that do not declare it."""
        if declared and all(isinstance(n, int) for n in declared[1:]):
            is_fixed = isinstance(declared[0], int)
            return declared if is_fixed else [self.batch, *declared[1:]]
        with _execution():
            return list(self._session.run([self._output], self._feed)[0].shape)

    def run_once(self) -> None:
        """Execute the file on the input that was set last."""
        self._session.run(None, self._feed)

    def profile(self, count: int) -> list[OperatorTime]:
        """The time that each type of operator takes in an execution, the longest first.

        It is the sum over operators of their medians over `count` executions.
        """
        with tempfile.TemporaryDirectory() as folder:
            self._options.enable_profiling = True
            self._options.profile_file_prefix = str(Path(folder) / "profile")
            session = _onnxruntime().InferenceSession(
                self._path, self._options, providers=["CPUExecutionProvider"]
            )
            for _ in range(count):
                session.run(None, self._feed)
            events = json.loads(Path(session.end_profiling()).read_text())
        times: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event.get("cat") == "Node":
                node = (event["args"]["op_name"], event["name"])
                times.setdefault(node, []).append(event["dur"] / 1000)
        kinds: dict[str, list[float]] = {}
        for (kind, _), times_ms in times.items():
            kinds.setdefault(kind, []).append(float(np.median(times_ms)))
        rows = [OperatorTime(kind, len(medians), sum(medians)) for kind, medians in kinds.items()]
        return sorted(rows, key=lambda row: -row.ms)

    def _as_feed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        images = _in_order(images, self.channels_first)
        return {self._name: np.ascontiguousarray(self.input.encoded(images))}

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        with _execution():
            return self.output.decoded(self._session.run([self._output], self._as_feed(images))[0])

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The answers of the file, float32 (n, classes), to float32 (n, *input_shape)."""
        return _in_batches(self, images)


@contextmanager
def _execution() -> Iterator[None]:
    """Raises ModelFileError in place of the errors by which a runtime gives up."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's own classes share no base but this
        raise ModelFileError(f"it can be loaded but not executed ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    """The first line of an error of a library, without the line of its source."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    return re.sub(r"[\w/]*\.(cc|h|cpp):\d+:? (\S+ )?", " ", line)


@dataclass(frozen=True)
class OnnxGraph:
    """What ONNX Runtime does not say of a file.

    Attributes:
        nodes: of the main graph.
        constants: the tensors that the main graph has, by name; the value of a single number,
            None for others.
        locations: of the files beside it that hold its weights, as the file writes them.
    """

    nodes: list[Node]
    constants: dict[str, float | None]
    locations: list[str]

    def scale(self, tensor: str, *, is_input: bool) -> tuple[float | None, int]:
        """The scale and zero point of an input or output of the file.

        They are inputs of the operator that reads or writes it. (None, 0) if that has none.
        """
        places = SCALES_OF_INPUT if is_input else SCALES_OF_OUTPUT
        while tensor:
            for node in self.nodes:
                here, there = (node.inputs, node.outputs)[:: 1 if is_input else -1]
                if tensor in here[:1] and node.operator in places:
                    names = node.inputs[places[node.operator] :]
                    scale, zero = [*map(self.constants.get, names), None, None][:2]
                    return scale, int(zero or 0)
                if tensor in here[:1] and _plain(node.operator) in PASSED - {"cast"}:
                    tensor = [*there, ""][0]
                    break
            else:
                break
        return None, 0


SCALES_OF_INPUT = {"DequantizeLinear": 1, "QLinearConv": 1, "QLinearMatMul": 1, "QGemm": 1}
SCALES_OF_OUTPUT = {
    "QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6, "QGemm": 7, "QLinearSoftmax": 3,
    "QLinearSigmoid": 3,
}  # fmt: skip
"""Which input of an operator is the scale of what it reads or writes. The zero point is next."""


def onnx_graph(path: Path) -> OnnxGraph:
    """The graph of an .onnx file; empty if it cannot be read.

    The numbers of the fields are those of onnx.proto. Devices have no package that reads it.
    """
    graph = OnnxGraph([], {}, [])
    try:
        with open(path, "rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for number, value in _fields(content):
            if number == 7:
                _read_graph(value, graph, depth=0)
            elif number == 25:  # a function
                _read_graph(value, OnnxGraph([], {}, graph.locations), depth=1, node=7)
    except (ValueError, IndexError, TypeError):  # it is damaged
        return OnnxGraph([], {}, [])
    return graph


def _read_graph(data: Any, graph: OnnxGraph, *, depth: int, node: int = 1) -> None:
    if depth > 50:
        raise ValueError("graphs within graphs")
    for number, value in _fields(data):
        if number == node:
            _read_node(value, graph, depth)
        elif number == 5 and node == 1:
            _read_tensor(value, graph)
        elif number == 15:  # a sparse tensor: values and indices
            for part, tensor in _fields(value):
                if part in (1, 2):
                    _read_tensor(tensor, graph)


def _read_node(data: Any, graph: OnnxGraph, depth: int) -> None:
    node, operator = Node("", [], []), ""
    attributes = []
    for number, value in _fields(data):
        if number == 1:
            node.inputs.append(_text(value))
        elif number == 2:
            node.outputs.append(_text(value))
        elif number == 4:
            operator = _text(value)
        elif number == 5:
            attributes.append(value)
    graph.nodes.append(Node(operator, node.inputs, node.outputs))
    inner = OnnxGraph([], {}, graph.locations)
    for attribute in attributes:
        for number, value in _fields(attribute):
            if number in (5, 10):
                name = node.outputs[0] if operator == "Constant" and node.outputs else ""
                _read_tensor(value, graph, name)
            elif number in (6, 11):
                _read_graph(value, inner, depth=depth + 1)


def _read_tensor(data: Any, graph: OnnxGraph, name: str = "") -> None:
    """Add a tensor to the constants of a graph, and where its numbers lie to the locations."""
    fields: dict[int, Any] = {}
    entries = []
    for number, value in _fields(data):
        if number == 13:
            entries.append(dict(_fields(value)))
        else:
            fields[number] = value
    if fields.get(14) == 1:  # the numbers are in another file
        texts = [(_text(entry.get(1)), _text(entry.get(2))) for entry in entries]
        graph.locations.extend(text for key, text in texts if key == "location")
    name = name or _text(fields.get(8))
    if name:
        graph.constants[name] = _single_number(fields)


def _single_number(tensor: dict[int, Any]) -> float | None:
    """The value of a tensor of one number; None for others."""
    dtype, raw = TENSOR_TYPES.get(tensor.get(2, 0)), tensor.get(9, tensor.get(4))
    if dtype and isinstance(raw, memoryview):
        numbers = np.frombuffer(raw, dtype)
        return float(numbers[0]) if numbers.size == 1 else None
    packed = tensor.get(5)
    if isinstance(packed, memoryview):
        number, end = _varint(packed, 0)
        packed = number if end == len(packed) else None
    return None if packed is None else float(packed - (1 << 64) if packed >> 63 else packed)


TENSOR_TYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 10: "<f2", 11: "<f8"}


def _text(value: Any) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview) else ""


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: their numbers, and a number or the bytes of each."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind}")
        if at > len(data):
            raise ValueError("ends early")
        yield key >> 3, value


def _varint(data: Any, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where the next one begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


MAX_NAME_BYTES = 255


def weight_files(path: Path) -> list[Path]:
    """The files beside a model that hold its weights; none for most models.

    Raises:
        ModelFileError: one is missing, or is said to lie outside the folder of the model.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        return []
    # The cache of Hugging Face has links to a folder where the model and its weights lie together.
    folders = {path.parent.resolve(), path.resolve().parent}
    files = []
    for location in dict.fromkeys(onnx_graph(path).locations):
        file = path.parent / location
        inside = not Path(location).is_absolute() and ".." not in Path(location).parts
        if "\0" in location or max(map(len, location.encode().split(b"/"))) > MAX_NAME_BYTES:
            raise ModelFileError("it says that its weights lie in a file that cannot exist")
        if not inside or not folders & {*file.resolve().parents}:
            raise ModelFileError(
                f"it says that its weights lie in {location}, which is outside its folder. Export "
                "it again, with the weights beside it"
            )
        if not file.is_file():
            raise ModelFileError(
                f"its weights are in a second file, {location}, which is missing in {path.parent}. "
                "Copy both files there"
            )
        files.append(file)
    return files


class OpenVinoModel:
    """An `.onnx` or `.tflite` file in OpenVINO, on the CPU."""

    runtime = "openvino"
    delegate = None
    answers = None
    input = output = Edge("float32")

    def __init__(
        self, path: Path, num_threads: int, image_size: int | None, layout: str | None
    ) -> None:
        openvino = _openvino()
        self.runtime_version = _version("openvino")
        settings = {
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Without this, OpenVINO computes a float32 file in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            model = openvino.Core().read_model(str(path))
            _check_one_image(model.inputs)
            _answer([tensor.any_name for tensor in model.outputs], None)
            shape = [n.get_length() if n.is_static else None for n in model.input().partial_shape]
            batch, self.input_shape, self.channels_first = _image_shape(shape, image_size, layout)
            self.batch = batch or 1
            image = _black(self.batch, self.input_shape)
            model.reshape(list(_in_order(image, self.channels_first).shape))
            input_dtype = model.input().element_type.to_dtype().name
            output_dtype = model.output().element_type.to_dtype().name
            if {input_dtype, output_dtype} != {"float32"}:
                raise ModelFileError(
                    f"its input is {input_dtype} and its output {output_dtype}; in OpenVINO "
                    "both must be float32, because OpenVINO does not report their scales"
                )
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ModelFileError(f"OpenVINO cannot read it ({_first_line(error)})") from None
        self._request = compiled.create_infer_request()
        self.num_classes = _num_classes(list(self.predict_batch(image).shape), self.batch)

    def run_once(self) -> None:
        """Execute the file on the input that was set last."""
        self._request.infer()

    def profile(self, count: int) -> list[OperatorTime]:
        raise ModelFileError("only ONNX Runtime reports the times of operators, for .onnx files")

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        images = _in_order(images, self.channels_first)
        self._request.infer({0: np.ascontiguousarray(images, "float32")})
        return np.array(self._request.get_output_tensor(0).data, "float32")

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The answers of the file, float32 (n, classes), to float32 (n, *input_shape)."""
        return _in_batches(self, images)


Model = Union[TfliteModel, OnnxModel, OpenVinoModel]  # noqa: UP007 - for Python 3.9


def open_model(
    path: Path,
    num_threads: int = 1,
    image_size: int | None = None,
    openvino: bool = False,
    layout: str | None = None,
    output: str | None = None,
) -> Model:
    """A model file, ready to be executed.

    Args:
        image_size: height and width, for a file that takes images of any size. A file that takes
            images of another size is refused.
        openvino: use OpenVINO instead of the usual runtime of the format.
        layout: "nhwc" or "nchw", for an input whose shape fits both.
        output: name of the output that answers, for a file with several.

    Raises:
        ModelFileError: it is no model file, or its input is not one RGB or grey image.
    """
    suffix = Path(path).suffix.lower()
    if openvino and suffix in (".tflite", ".onnx"):
        return OpenVinoModel(path, num_threads, image_size, layout)
    if suffix == ".tflite":
        return TfliteModel(path, num_threads, image_size, layout, output)
    if suffix == ".onnx":
        return OnnxModel(path, num_threads, image_size, layout, output)
    raise ModelFileError(
        f"its name ends in {suffix or 'nothing'}; expected .tflite or .onnx. Of a Keras model, "
        "compress quantize MODEL --recipe float32 makes one"
    )


def _in_batches(model: Model, images: np.ndarray) -> np.ndarray:
    """The answers to any number of images, in batches of the size that the file takes."""
    if images.shape[1:] != model.input_shape:
        raise ValueError(f"images of shape {images.shape[1:]}; expected {model.input_shape}")
    outputs = [np.zeros((0, model.num_classes), "float32")]
    for start in range(0, len(images), model.batch):
        part = images[start : start + model.batch]
        padded = np.concatenate([part, np.repeat(part[-1:], model.batch - len(part), axis=0)])
        outputs.append(model.predict_batch(padded).reshape(model.batch, -1)[: len(part)])
    return np.concatenate(outputs)


def peak_rss_mib() -> float:
    """The peak resident memory of this process, in MiB."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if match:  # unlike ru_maxrss, it does not include the parent's memory
            return int(match[1]) / 1024
    except OSError:
        pass
    import resource  # missing on Windows

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum / 1024 / (1024 if sys.platform == "darwin" else 1)


INT8_ISA = {
    "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
}  # fmt: skip
"""Instruction sets of x86 and ARM that matter for the speed of model files, int8 above all."""


def machine_state(root: Path = Path("/")) -> MachineState:
    """What affects times on this machine. Linux reports most of it.

    Args:
        root: the folder that contains /proc and /sys.
    """
    info = dict(
        (key.strip(), value.strip())
        for line in reversed(_read(root, "proc/cpuinfo").splitlines())
        for key, _, value in [line.partition(":")]
    )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    folders = [f"sys/devices/system/cpu/cpu{core}/cpufreq/" for core in cores]
    governors = {_read(root, f"{folder}scaling_governor") for folder in folders} - {""}
    kilohertz = _numbers(root, [f"{folder}scaling_cur_freq" for folder in folders])
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    millidegrees = _numbers(root, [str(zone.relative_to(root)) for zone in zones])
    loads = _read(root, "proc/loadavg").split()
    flags = info.get("flags") or info.get("Features")
    board = _read(root, "proc/device-tree/model").strip("\0")
    return MachineState(
        cpu=info.get("model name") or board or platform.processor() or platform.machine() or None,
        isa=tuple(sorted(INT8_ISA & set(flags.split()))) if flags else None,
        num_cores=os.cpu_count(),
        cores=tuple(cores) or None,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        governor=", ".join(sorted(governors)) or None,
        mhz=max(kilohertz) / 1000 if kilohertz else _number(info.get("cpu MHz", "")),
        temperature_c=max(millidegrees) / 1000 if millidegrees else None,
        load=_number(loads[0]) if loads else None,
    )


def _read(root: Path, path: str) -> str:
    try:
        return (root / path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(root: Path, paths: list[str]) -> list[float]:
    numbers = [_number(_read(root, path)) for path in paths]
    return [number for number in numbers if number is not None]


def _pin(cores: list[int]) -> None:
    """Restrict this process, and the threads it starts later, to these cores."""
    if not hasattr(os, "sched_setaffinity"):
        raise ModelFileError("cores: this system cannot pin a process to cores; Linux can")
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError):
        usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise ModelFileError(f"cores {cores} do not all exist; expected some of {usable}") from None


def _restart() -> None:
    """Become a new process of the same command, on the same pipes.

    Where memory lies is drawn once for a process and can change its times by some percent
    (Kalibera and Jones 2013, Rigorous Benchmarking in Reasonable Time).
    """
    os.dup2(sys.stdout.fileno(), 1)
    # Python 3.9 and older have no orig_argv. They have no option -P either that could be lost.
    arguments = getattr(sys, "orig_argv", [sys.executable, *sys.argv])
    os.execv(sys.executable, [sys.executable, *arguments[1:]])


def _times_ms(model: Model, count: int) -> list[float]:
    times_ms = []
    with _execution():
        for _ in range(count):
            start = time.perf_counter()
            model.run_once()
            times_ms.append(1000 * (time.perf_counter() - start))
    return times_ms


Send = Callable[[Dict[str, Any]], None]  # noqa: UP006 - for Python 3.9
"""Writes one message to the caller."""


def sender(marker: str) -> Send:
    """A function that writes messages to standard output, each behind the marker."""

    def send(message: dict[str, Any]) -> None:
        # The new line comes first: whatever was written before may have left its line open.
        print(f"\n{marker} {json.dumps(message)}" if marker else json.dumps(message), flush=True)

    return send


def serve(
    path: Path, num_threads: int, send: Send, openvino: bool = False, layout: str | None = None
) -> None:
    """Load a file and answer requests until one says quit."""
    # An app loads its runtime once, so importing it from the disk does not count as loading.
    imports = {".tflite": _litert, ".onnx": _onnxruntime}
    (_openvino if openvino else imports.get(path.suffix.lower(), lambda: None))()
    start = time.perf_counter()
    model = open_model(path, num_threads, openvino=openvino, layout=layout)
    load_ms = 1000 * (time.perf_counter() - start)
    ready = Ready(
        load_ms=load_ms,
        first_ms=_times_ms(model, 1)[0],
        runtime=model.runtime,
        runtime_version=model.runtime_version,
        batch=model.batch,
        delegate=model.delegate,
        state=machine_state(),
    )
    send({"ready": True, **asdict(ready)})
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            send({"times_ms": _times_ms(model, int(request["run"]))})
        if "image" in request:
            pixels = np.frombuffer(base64.b64decode(request["image"]), "<f4")
            answer = model.predict(pixels.reshape(1, *model.input_shape))[0]
            send({"answer": [float(value) for value in answer]})
        if "profile" in request:
            operators = model.profile(int(request["profile"]))
            send({"operators": [asdict(operator) for operator in operators]})
        if "state" in request:
            send({"state": asdict(machine_state())})
        if "reopen" in request:
            _restart()
        if request.get("quit"):
            send(asdict(Finished(peak_rss_mib(), machine_state())))
            return


def main() -> int:
    parser = argparse.ArgumentParser(description="Time one model file over standard input.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--cores", type=int, nargs="+", help="pin the process to these cores")
    parser.add_argument("--openvino", action="store_true", help="instead of the usual runtime")
    parser.add_argument("--layout", choices=["nhwc", "nchw"], help="if the shape fits both")
    parser.add_argument("--marker", default="", help="what every line of an answer begins with")
    options = parser.parse_args()
    # What a runtime prints goes to standard error, so that only answers go to standard output.
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    send = sender(options.marker)
    try:
        if options.cores:
            _pin(options.cores)
        serve(options.file, options.num_threads, send, options.openvino, options.layout)
    except (ModelFileError, OSError) as error:
        send({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
