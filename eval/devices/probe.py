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
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, Union  # noqa: UP035 - for Python 3.9

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
    """The first message of a probe: its file is loaded and was executed once."""

    load_ms: float
    first_ms: float
    runtime: str
    runtime_version: str
    batch: int
    delegate: Delegate | None = None
    state: MachineState = MachineState()

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


class TfliteModel:
    """A `.tflite` file in LiteRT."""

    runtime = "litert"

    def __init__(self, path: Path, num_threads: int, image_size: int | None) -> None:
        with open(path, "rb") as file:
            content = file.read(32)
        if len(content) < 32 or content[4:8] != b"TFL3":
            raise ModelFileError("no TFLite model (its identifier TFL3 is missing)")
        interpreter, self.runtime_version = _litert()
        try:
            # Verifies the flatbuffer: a truncated file ends here.
            self._interpreter = interpreter(model_path=str(path), num_threads=num_threads)
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
            _check_one_image_one_answer(inputs, outputs)
            if np.dtype(inputs[0]["dtype"]).kind not in "fiu":
                raise ModelFileError(f"input of type {inputs[0]['dtype']}; expected numbers")
            shape = [int(n) for n in inputs[0]["shape_signature"]]
            batch, self.input_shape, channels_first = _image_shape(shape, image_size)
            if channels_first:
                raise ModelFileError(
                    f"input of shape {shape} with channels first; expected (batch, height, width, "
                    "3): export the model with channels last"
                )
            self.batch = batch or 1
            self._interpreter.resize_tensor_input(
                inputs[0]["index"], [self.batch, *self.input_shape]
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(
                f"it is damaged, or this runtime lacks one of its operators ({error})"
            ) from None
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self.input_dtype = np.dtype(self._input["dtype"]).name
        self.num_classes = _num_classes(self._output["shape"], self.batch)
        self.delegate = _delegate(self._interpreter)
        self._set_input(np.zeros((self.batch, *self.input_shape), "float32"))

    def _set_input(self, images: np.ndarray) -> None:
        self._interpreter.set_tensor(self._input["index"], _quantized(images, self._input))

    def run_once(self) -> None:
        """Execute the file on the input that was set last."""
        self._interpreter.invoke()

    def profile(self, count: int) -> list[OperatorTime]:
        raise ModelFileError(
            "LiteRT does not report the times of operators to Python. Its program benchmark_model "
            "does (--enable_op_profiling=true)"
        )

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        self._set_input(images)
        self._interpreter.invoke()
        output = self._interpreter.get_tensor(self._output["index"])
        scale, zero = self._output["quantization"]
        if np.dtype(self._output["dtype"]).kind in "iu":
            return (output.astype("float32") - zero) * (scale or 1.0)
        return np.asarray(output, "float32")

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The answers of the file, float32 (n, classes), to float32 (n, height, width, 3)."""
        return _in_batches(self, images)


def _delegate(interpreter: Any) -> Delegate | None:
    """How many operators XNNPACK executes; it is the one delegate that LiteRT applies by itself.

    LiteRT lists the operators that a delegate replaces as well as the delegate. This walks back
    from the outputs. Where an operator and a delegate write the same tensor, the delegate does.
    """
    try:
        nodes = interpreter._get_ops_details()
    except AttributeError:  # a private method, which other versions may lack
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


def _check_one_image_one_answer(inputs: list[Any], outputs: list[Any]) -> None:
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelFileError(
            f"{len(inputs)} inputs and {len(outputs)} outputs; expected one image and one answer"
        )


def _image_shape(
    shape: list[Any], image_size: int | None
) -> tuple[int | None, tuple[int, int, int], bool]:
    """The batch (None if any), (height, width, 3), and whether the channels come first."""
    if len(shape) != 4:
        raise ModelFileError(f"input of shape {shape}; expected (batch, height, width, 3)")
    sizes = [n if isinstance(n, int) and n > 0 else None for n in shape]
    channels_first = sizes[1] == 3 and sizes[3] != 3
    batch, height, width, channels = [sizes[i] for i in (0, 2, 3, 1)] if channels_first else sizes
    if channels != 3:
        raise ModelFileError(f"input of shape {shape}; expected three channels (RGB)")
    if image_size and (height or image_size, width or image_size) != (image_size, image_size):
        raise ModelFileError(f"input of shape {shape}; expected {image_size} x {image_size} pixels")
    height, width = height or image_size, width or image_size
    if height is None or width is None:
        raise ModelFileError(
            f"input of shape {shape} without a fixed height and width: export it with one"
        )
    return batch, (height, width, 3), channels_first


def _num_classes(shape: Any, batch: int) -> int:
    """The number of classes of an output (batch, classes), which may have ones in between."""
    numbers = [int(n) for n in shape]
    if not numbers or int(np.prod(numbers)) != batch * numbers[-1]:
        raise ModelFileError(f"output of shape {numbers}; expected (batch, classes)")
    return numbers[-1]


def _quantized(images: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Images in the type of an input: rounded to its scale and zero point where it has these."""
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f":
        return images.astype(dtype)
    scale, zero = details["quantization"]
    limits = np.iinfo(dtype)
    values = images / (scale or 1.0) + zero
    return np.clip(np.round(values), limits.min, limits.max).astype(dtype)


class OnnxModel:
    """An `.onnx` file in ONNX Runtime, on the CPU, with channels last or first."""

    runtime = "onnxruntime"
    delegate = None  # the CPU provider executes every operator itself

    def __init__(self, path: Path, num_threads: int, image_size: int | None) -> None:
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
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise ModelFileError(
                f"no ONNX model, or a damaged one ({_first_line(error)})"
            ) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        _check_one_image_one_answer(inputs, outputs)
        batch, self.input_shape, self._channels_first = _image_shape(
            list(inputs[0].shape), image_size
        )
        self._name = inputs[0].name
        self.input_dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}.get(
            inputs[0].type, inputs[0].type
        )
        if self.input_dtype not in ("float32", "uint8"):
            raise ModelFileError(f"input of type {inputs[0].type}; expected float or uint8")
        self.batch = batch or 1
        self._feed = self._as_feed(np.zeros((self.batch, *self.input_shape), "float32"))
        output_shape = list(outputs[0].shape)
        if not all(isinstance(n, int) for n in output_shape[1:]):
            output_shape = self._executed_output_shape()
        self.num_classes = _num_classes([self.batch, *output_shape[1:]], self.batch)

    def _executed_output_shape(self) -> list[int]:
        """The shape of the output of an execution, for files that do not declare it."""
        try:
            return list(self._session.run(None, self._feed)[0].shape)
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise ModelFileError(
                f"it can be loaded but not executed ({_first_line(error)})"
            ) from None

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
        if self.input_dtype == "uint8":
            images = np.clip(np.round(images), 0, 255)
        if self._channels_first:
            images = images.transpose(0, 3, 1, 2)
        return {self._name: np.ascontiguousarray(images, self.input_dtype)}

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(None, self._as_feed(images))[0], "float32")

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The answers of the file, float32 (n, classes), to float32 (n, height, width, 3)."""
        return _in_batches(self, images)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class OpenVinoModel:
    """An `.onnx` or `.tflite` file in OpenVINO, on the CPU."""

    runtime = "openvino"
    delegate = None

    def __init__(self, path: Path, num_threads: int, image_size: int | None) -> None:
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
            _check_one_image_one_answer(model.inputs, model.outputs)
            shape = [n.get_length() if n.is_static else None for n in model.input().partial_shape]
            batch, self.input_shape, self._channels_first = _image_shape(shape, image_size)
            self.batch = batch or 1
            image = np.zeros((self.batch, *self.input_shape), "float32")
            model.reshape(list(self._in_channel_order(image).shape))
            self.input_dtype = model.input().element_type.to_dtype().name
            output_dtype = model.output().element_type.to_dtype().name
            if {self.input_dtype, output_dtype} != {"float32"}:
                raise ModelFileError(
                    f"its input is {self.input_dtype} and its output {output_dtype}; in OpenVINO "
                    "both must be float32, because OpenVINO does not report their scales"
                )
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ModelFileError(f"OpenVINO cannot read it ({_first_line(error)})") from None
        self._request = compiled.create_infer_request()
        self.num_classes = _num_classes(list(self.predict_batch(image).shape), self.batch)

    def _in_channel_order(self, images: np.ndarray) -> np.ndarray:
        return images.transpose(0, 3, 1, 2) if self._channels_first else images

    def run_once(self) -> None:
        """Execute the file on the input that was set last."""
        self._request.infer()

    def profile(self, count: int) -> list[OperatorTime]:
        raise ModelFileError("only ONNX Runtime reports the times of operators, for .onnx files")

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        self._request.infer({0: np.ascontiguousarray(self._in_channel_order(images), "float32")})
        return np.array(self._request.get_output_tensor(0).data, "float32")

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The answers of the file, float32 (n, classes), to float32 (n, height, width, 3)."""
        return _in_batches(self, images)


Model = Union[TfliteModel, OnnxModel, OpenVinoModel]  # noqa: UP007 - for Python 3.9


def open_model(
    path: Path, num_threads: int = 1, image_size: int | None = None, openvino: bool = False
) -> Model:
    """A model file, ready to be executed.

    Args:
        image_size: height and width, for a file that takes images of any size. A file that takes
            images of another size is refused.
        openvino: use OpenVINO instead of the usual runtime of the format.

    Raises:
        ModelFileError: it is no model file, or its input is not one RGB image.
    """
    suffix = Path(path).suffix.lower()
    if openvino and suffix in (".tflite", ".onnx"):
        return OpenVinoModel(path, num_threads, image_size)
    if suffix == ".tflite":
        return TfliteModel(path, num_threads, image_size)
    if suffix == ".onnx":
        return OnnxModel(path, num_threads, image_size)
    raise ModelFileError(f"a {suffix or 'nameless'} file; expected .tflite or .onnx")


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


def serve(path: Path, num_threads: int, send: Send, openvino: bool = False) -> None:
    """Load a file and answer requests until one says quit."""
    # An app loads its runtime once, so importing it from the disk does not count as loading.
    imports = {".tflite": _litert, ".onnx": _onnxruntime}
    (_openvino if openvino else imports.get(path.suffix.lower(), lambda: None))()
    start = time.perf_counter()
    model = open_model(path, num_threads, openvino=openvino)
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
    parser.add_argument("--marker", default="", help="what every line of an answer begins with")
    options = parser.parse_args()
    # What a runtime prints goes to standard error, so that only answers go to standard output.
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    send = sender(options.marker)
    try:
        if options.cores:
            _pin(options.cores)
        serve(options.file, options.num_threads, send, options.openvino)
    except (ModelFileError, OSError) as error:
        send({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
