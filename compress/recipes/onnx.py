"""ONNX recipes: a Keras model -> an .onnx file with a static batch of 1 and tensors named by us."""

import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx

from compress.graph.kernels import INT8_STEPS
from compress.graph.tensor_names import INPUT
from compress.int8.equalization.equalize import Equalize
from compress.int8.histogram import Range
from compress.int8.precision import (
    KeepFloat,
    Operation,
    RoundingCost,
    choose_float_operations,
    describe_precision,
)
from compress.int8.ranges import Ranges, TensorReader, choose_ranges
from compress.onnx.convert import convert_to_onnx
from compress.onnx.operations import GELU
from compress.recipes.conversion import Conversion
from compress.recipes.converters import quiet_converters
from compress.recipes.tflite import NumImages
from configs.registry import Registry
from configs.schema.files import OutputKind

RECIPES = Registry("recipe", prefix="onnx.")
ELEMENTWISE = {"Add", "Div", "Mul", "Neg", "Pow", "Sub", "Tanh", "Erf"}
"""What a GELU is made of."""
Cpu = Literal["x86_vnni", "x86", "arm"]


class Types(NamedTuple):
    """What an int8 file computes with.

    Attributes:
        activations: "uint8" or "int8".
        kernel_steps: kernels are int8, from minus this to this.
    """

    activations: str
    kernel_steps: int


# As the documentation of onnxruntime's `quantize` advises for each CPU.
TYPES: dict[Cpu, Types] = {
    "x86_vnni": Types("uint8", INT8_STEPS),
    # x86 without VNNI adds two products of uint8 and int8 in 16 bits (VPMADDUBSW), and larger sums
    # silently become 32,767. 2 * 255 * 64 is below that.
    "x86": Types("uint8", 64),
    "arm": Types("int8", INT8_STEPS),
}


@dataclass(frozen=True)
class OnnxInt8:
    """What the manifest of an int8 file says about it.

    Attributes:
        cpu: what the file is made for.
        activations, kernel_steps: as in `Types`.
        equalized, kept_float, rounding: as in `Precision`.
    """

    cpu: Cpu
    activations: str
    kernel_steps: int
    equalized: list[str] | None = None
    kept_float: list[str] | None = None
    rounding: list[RoundingCost] | None = None


@RECIPES.add
def float32(conversion: Conversion, path: Path, *, output: OutputKind) -> None:
    """The model as it is."""
    with quiet_converters():
        onnx.save(convert_to_onnx(conversion.traced, output), path)


@RECIPES.add
def int8(
    conversion: Conversion,
    path: Path,
    *,
    output: OutputKind,
    num_images: NumImages = 64,
    ranges: Ranges = "loss",
    equalize: Equalize = "auto",
    keep_float: KeepFloat = 0.0,
    cpu: Cpu = "x86_vnni",
) -> OnnxInt8:
    """int8 weights by channel and int8 or uint8 activations (QDQ), float32 input and output.

    Compare its latency with the float file, which may be faster.

    Args:
        num_images: how many images the ranges of activations are taken from.
        ranges: "loss" keeps the values that the answers depend on, "minmax" keeps all values;
            "mse" and {percentile: 99.99} leave out rare large ones.
        equalize: "auto" scales channels where that makes int8 more accurate; "off" does not. It
            changes no answer of the model. A scaled swish takes one more operation.
        keep_float: names of layers that stay in float; or a share: the fewest operations that save
            this share of the predicted cost of rounding.
        cpu: what the file is made for; every CPU runs it. On x86 without VNNI (before Intel's
            Cascade Lake and Ice Lake, AMD's Zen 4) sums overflow, except in files for "x86", whose
            weights have 7 bits. onnxruntime advises int8 activations on ARM.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    types = TYPES[cpu]
    calibrated = conversion.calibrated(num_images, types.kernel_steps, equalize=equalize)
    with quiet_converters(), tempfile.TemporaryDirectory() as folder:
        converted, prepared = Path(folder) / "converted.onnx", Path(folder) / "prepared.onnx"
        onnx.save(convert_to_onnx(calibrated.traced, output), converted)
        quant_pre_process(converted, prepared)
        file_ranges = choose_ranges(tensor_reader(prepared), calibrated, ranges=ranges)
        operations = operations_of(prepared)
        float_only = _without_int8_arithmetic(prepared)
        in_float = choose_float_operations(operations, file_ranges, calibrated, keep_float)
        quantize_nodes(
            prepared,
            path,
            types=types,
            ranges=file_ranges.ranges,
            image=calibrated.images[0],
            in_float=in_float | float_only,
        )
    is_measured = ranges == "loss" or bool(in_float)
    operations = [operation for operation in operations if operation.name not in float_only]
    precision = describe_precision(
        operations, file_ranges, calibrated, in_float - float_only, is_measured=is_measured
    )
    return OnnxInt8(cpu, *types, precision.equalized, precision.kept_float, precision.rounding)


def quantize_nodes(
    source: Path,
    target: Path,
    *,
    types: Types,
    ranges: dict[str, Range],
    image: np.ndarray,
    in_float: set[str],
) -> None:
    """Write the int8 file of a float file, within these ranges of its tensors.

    Args:
        image: float32 (height, width, channels); the quantizer wants to see one.
        in_float: nodes that stay in float.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        source,
        target,
        CalibrationReader(iter([image])),
        quant_format=QuantFormat.QDQ,
        activation_type={"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}[types.activations],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=types.kernel_steps < INT8_STEPS,
        nodes_to_exclude=sorted(in_float),
        extra_options={"TensorQuantOverrides": _overrides(ranges)},
    )


def operations_of(path: Path) -> list[Operation]:
    """The nodes of a float file in their order."""
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [
        Operation(node.name, [n for n in node.input if n not in constants], list(node.output))
        for node in graph.node
    ]


def _without_int8_arithmetic(path: Path) -> set[str]:
    """The nodes that no runtime executes in int8; rounding between them would only cost."""
    nodes = onnx.load(path).graph.node
    return {
        node.name
        for node in nodes
        if node.op_type == "LayerNormalization"
        or (GELU in node.name and node.op_type in ELEMENTWISE)
    }


def tensor_reader(path: Path) -> TensorReader:
    """A function from an image to the tensors that a float file computes, by name."""
    import onnxruntime

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    # The quantizer gives a softmax the range 0..1, and its runtime accepts no other.
    nodes = [node for node in model.graph.node if node.op_type != "Softmax"]
    computed = {name for node in nodes for name in node.output}
    floats = [
        tensor
        for tensor in (*model.graph.value_info, *model.graph.output)
        if tensor.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and tensor.name in computed
    ]
    maps = [tensor for tensor in floats if len(tensor.type.tensor_type.shape.dim) == 4]
    channels_first = {tensor.name for tensor in maps} - _channels_last(nodes)
    del model.graph.output[:]
    model.graph.output.extend(floats)
    options = onnxruntime.SessionOptions()
    # Fused operations would hide the tensors between them.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    output_names = [tensor.name for tensor in session.get_outputs()]

    def read(image: np.ndarray, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        needed = [name for name in output_names if names is None or name in names]
        # For no names onnxruntime would return all tensors.
        values = session.run(needed, {INPUT: image[None]}) if needed else []
        tensors = dict(zip(needed, values, strict=True))
        for name in channels_first.intersection(tensors):
            tensors[name] = np.moveaxis(tensors[name], 1, -1)
        return tensors if names is not None and INPUT not in names else {INPUT: image, **tensors}

    return read


def _channels_last(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The feature maps with channels last, as in Keras: between two transposes."""
    last: set[str] = set()
    for node in nodes:
        if node.op_type == "Transpose":
            (perm,) = (list(attribute.ints) for attribute in node.attribute)
            is_last = perm == [0, 2, 3, 1]
        else:
            is_last = not last.isdisjoint(node.input)
        if is_last:
            last.update(node.output)
    return last


def _overrides(ranges: dict[str, Range]) -> dict[str, list[dict[str, Any]]]:
    """Ranges in the form that onnxruntime's quantizer reads."""
    return {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in ranges.items()
    }


class CalibrationReader:
    """Calibration images in the form that onnxruntime reads: `get_next` until it returns None."""

    def __init__(self, images: Iterator[np.ndarray]) -> None:
        self._images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}
