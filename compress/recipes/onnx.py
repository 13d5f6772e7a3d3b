"""ONNX recipes: a Keras model -> an .onnx file with static batch 1 and names of our own."""

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx

from compress.graph.inference import INPUT, TracedModel, quiet_converters
from compress.graph.rewrites import INT8_STEPS
from compress.int8.histogram import Range
from compress.int8.precision import (
    KeepFloat,
    Operation,
    float_operations,
    report,
)
from compress.int8.ranges import Ranges, Run, file_ranges
from compress.recipes.conversion import Conversion
from compress.recipes.tflite import NumImages
from configs.errors import UserError
from configs.registry import Registry

RECIPES = Registry("recipe", prefix="onnx.")
OPSET = 17
"""Older runtimes on devices read it, and it has all that image classifiers need."""
Cpu = Literal["x86_vnni", "x86", "arm"]


class Types(NamedTuple):
    """What an int8 file computes with."""

    activations: str
    kernel_steps: int
    """Kernels are int8, from minus this to this."""


# As onnxruntime's `quantize` advises for each CPU.
TYPES: dict[Cpu, Types] = {
    "x86_vnni": Types("uint8", INT8_STEPS),
    # Without VNNI x86 adds two products of uint8 and int8 in 16 bits (VPMADDUBSW) and keeps what is
    # too large for them at 32,767. 2 * 255 * 64 is not, so nothing saturates.
    "x86": Types("uint8", 64),
    "arm": Types("int8", INT8_STEPS),
}


@RECIPES.add
def float32(conversion: Conversion, path: Path, *, output: str) -> None:
    """The model as it is."""
    with quiet_converters():
        onnx.save(_converted(conversion.traced, output), path)


@RECIPES.add
def int8(
    conversion: Conversion,
    path: Path,
    *,
    output: str,
    num_images: NumImages = 64,
    ranges: Ranges = "loss",
    keep_float: KeepFloat = 0.0,
    cpu: Cpu = "x86_vnni",
) -> dict[str, Any]:
    """int8 weights by channel and int8 or uint8 activations (QDQ), float32 at the model's edges.

    Measure it against the float file, which may be faster.

    Args:
        num_images: how many of them set the activation ranges.
        ranges: "loss" keeps the values that the answers depend on, "minmax" keeps all; "mse" and
            {percentile: 99.99} leave some out by how large and how many they are.
        keep_float: names of layers that stay in float; or a share: as few operations as save
            this share of what rounding is predicted to cost the answers.
        cpu: what the file is made for; all run it. On x86 without VNNI (before Intel's Cascade
            Lake and Ice Lake, AMD's Zen 4) sums overflow but in files for "x86", whose weights have
            7 bits. onnxruntime advises int8 activations on ARM.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    types = TYPES[cpu]
    ready = conversion.calibrated(num_images, types.kernel_steps)
    with quiet_converters(), tempfile.TemporaryDirectory() as folder:
        converted, prepared_file = Path(folder) / "converted.onnx", Path(folder) / "prepared.onnx"
        onnx.save(_converted(ready.traced, output), converted)
        quant_pre_process(converted, prepared_file)
        found = file_ranges(_all_tensors(prepared_file), ready, ranges=ranges)
        parts = _operations(prepared_file)
        kept = float_operations(parts, found, ready, keep_float)
        quantize_static(
            prepared_file,
            path,
            _CalibrationReader(iter(ready.images[:1])),  # it asks for one; the ranges are given
            quant_format=QuantFormat.QDQ,
            activation_type={"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}[types.activations],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=types.kernel_steps < INT8_STEPS,
            nodes_to_exclude=sorted(kept),
            extra_options={"TensorQuantOverrides": _overrides(found.ranges)},
        )
    facts = report(parts, found, ready, kept) if ranges == "loss" or kept else {}
    return {"cpu": cpu, **types._asdict(), **facts}


def _operations(path: Path) -> list[Operation]:
    """The nodes of a float file in their order; constants are no inputs."""
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [
        Operation(node.name, [n for n in node.input if n not in constants], list(node.output))
        for node in graph.node
    ]


def _all_tensors(path: Path) -> Run:
    """A function from an image to what a float file computes of it, by tensor name."""
    import onnxruntime

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    # The quantizer gives a softmax the range 0..1, and its runtime accepts no other.
    nodes = [node for node in model.graph.node if node.op_type != "Softmax"]
    computed = {name for node in nodes for name in node.output}
    floats = [
        each
        for each in (*model.graph.value_info, *model.graph.output)
        if each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and each.name in computed
    ]
    del model.graph.output[:]
    model.graph.output.extend(floats)
    options = onnxruntime.SessionOptions()
    # Fused operations would not show what lies between them.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    computed_names = [each.name for each in session.get_outputs()]

    def run(image: np.ndarray, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        wanted = [each for each in computed_names if names is None or each in names]
        # Asked for nothing, onnxruntime gives all.
        values = session.run(wanted, {INPUT: image[None]}) if wanted else []
        # ONNX has channels first, Keras last.
        last = [np.moveaxis(each, 1, -1) if each.ndim == 4 else each for each in values]
        found = dict(zip(wanted, last, strict=True))
        return found if names is not None and INPUT not in names else {INPUT: image, **found}

    return run


def _overrides(ranges: dict[str, Range]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in ranges.items()
    }


class _CalibrationReader:
    """What onnxruntime reads calibration images from: a `get_next` until None."""

    def __init__(self, images: Iterator[np.ndarray]) -> None:
        self._images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def _converted(traced: TracedModel, output: str) -> onnx.ModelProto:
    import tf2onnx

    function = traced.frozen_function(output)
    image, result = function.inputs[0].name, function.outputs[0].name
    converted, _ = tf2onnx.convert.from_graph_def(
        function.graph.as_graph_def(),
        input_names=[image],
        output_names=[result],
        opset=OPSET,
    )
    _rename(converted.graph, {image: INPUT, result: output})
    _part_second_biases(converted.graph)
    try:
        onnx.checker.check_model(converted)
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"tf2onnx could not convert the model: {str(error).splitlines()[0]}.\n"
            "A layer has no counterpart in ONNX. Replace it, or write TFLite (tflite.float32)."
        ) from error
    return converted


def _part_second_biases(graph: onnx.GraphProto) -> None:
    """Add what tf2onnx gives a Conv for a second bias behind it, as ONNX knows only one.

    Where feature maps are one pixel small it takes the other summand of a residual connection for
    another bias, (channels,).
    """
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "second_bias_axes")
    for node in list(graph.node):
        if node.op_type != "Conv" or len(node.input) <= 3:
            continue
        second, result = node.input.pop(), node.output[0]
        node.output[0] = f"{result}_first_bias"
        summand = f"{result}_second_bias"
        behind = [
            onnx.helper.make_node("Unsqueeze", [second, axes.name], [summand], name=summand),
            onnx.helper.make_node("Add", [node.output[0], summand], [result], name=result),
        ]
        place = list(graph.node).index(node) + 1
        for offset, each in enumerate(behind):
            graph.node.insert(place + offset, each)
        if axes.name not in {tensor.name for tensor in graph.initializer}:
            graph.initializer.append(axes)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    taken = {tensor for node in graph.node for tensor in (*node.input, *node.output)} - set(names)
    assert not taken & set(names.values()), f"{taken & set(names.values())} named twice"
    for tensor in (*graph.input, *graph.output):
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]
