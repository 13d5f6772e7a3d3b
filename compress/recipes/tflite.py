"""TFLite recipes: a Keras model -> a .tflite file with static batch 1 and names of our own.

A recipe returns what the manifest of its file shall say of it beyond the usual, or nothing.
"""

import re
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from pydantic import Field

from compress.graph.inference import TracedModel, quiet_converters
from compress.int8.calibration import CalibratedModel
from compress.int8.precision import KeepFloat, float_operations, report
from compress.int8.ranges import (
    FileRanges,
    Ranges,
    Run,
    file_ranges,
)
from compress.recipes.conversion import Conversion
from compress.recipes.flatbuffer import (
    edge_types,
    operations,
    with_int8_kernels,
    with_names,
    with_ranges,
)
from configs.errors import UserError
from configs.registry import Registry

RECIPES = Registry("recipe", prefix="tflite.")
NumImages = Annotated[int, Field(gt=0)]
EdgeType = Literal["float32", "uint8", "int8"]
CONTROL_FLOW = {"Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"}
"""Operations of TensorFlow."""


@RECIPES.add
def float32(conversion: Conversion, path: Path, *, output: str) -> None:
    """The model as it is."""
    _write(_converter(conversion.traced, output), path, output)


@RECIPES.add
def float16(conversion: Conversion, path: Path, *, output: str) -> None:
    """float16 weights, float32 arithmetic: half the size."""
    converter = _converter(conversion.traced, output)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    _write(converter, path, output)


@RECIPES.add
def dynamic(conversion: Conversion, path: Path, *, output: str) -> None:
    """int8 weights; activations are quantized by the range each image turns out to have."""
    converter = _converter(conversion.traced, output)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    _write(converter, path, output)


@RECIPES.add
def weights(
    conversion: Conversion,
    path: Path,
    *,
    output: str,
    num_images: NumImages = 64,
) -> None:
    """int8 weights, float32 arithmetic: a quarter of the size at the speed of floats.

    Args:
        num_images: how many images the biases are corrected on.
    """
    ready = conversion.calibrated(num_images)
    content = with_int8_kernels(_converted(_converter(ready.traced, output)))
    path.write_bytes(with_names(content, output))


@RECIPES.add
def int16(
    conversion: Conversion,
    path: Path,
    *,
    output: str,
    num_images: NumImages = 64,
) -> None:
    """int8 weights and int16 activations, float32 at the model's edges.

    For devices that have such arithmetic: runtimes on CPUs execute it many times slower than
    floats. Its ranges are those of all values, for 65,535 steps leave room for them.
    """
    ready = conversion.calibrated(num_images)
    converter = _integer_converter(ready.traced, output)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in ready.images)
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    ]
    _write(converter, path, output)


@RECIPES.add
def int8(
    conversion: Conversion,
    path: Path,
    *,
    output: str,
    num_images: NumImages = 64,
    ranges: Ranges = "loss",
    keep_float: KeepFloat = 0.0,
    input_type: EdgeType = "float32",
    output_type: EdgeType = "float32",
) -> dict[str, Any]:
    """int8 weights and activations.

    Args:
        num_images: how many of them set the activation ranges.
        ranges: "loss" keeps the values that the answers depend on, "minmax" keeps all; "mse" and
            {percentile: 99.99} leave some out by how large and how many they are.
        keep_float: names of layers that stay in float; or a share: as few operations as save
            this share of what rounding is predicted to cost the answers.
        input_type: of the image in the file. uint8 is the photo's own bytes, int8 is 128 less.
        output_type: of the answers in the file, which says by which scale they are read.
    """
    ready = conversion.calibrated(num_images)
    if input_type != "float32" and not ready.of_bytes:
        raise UserError(
            f"input_type {input_type} is for models that take pixels from 0 to 255 as they are. "
            "Put the scaling of the pixels into the model, or leave input_type at float32."
        )
    content, found = float_file(ready, output=output, ranges=ranges)
    parts = operations(content)
    kept = float_operations(parts, found, ready, keep_float)
    quantized = _quantized(with_ranges(content, found.ranges), kept)
    edged = _with_edges(quantized, input_type, output_type)
    path.write_bytes(with_names(edged, output))
    return report(parts, found, ready, kept) if ranges == "loss" or kept else {}


def float_file(ready: CalibratedModel, *, output: str, ranges: Ranges) -> tuple[bytes, FileRanges]:
    """The float file that becomes the int8 one, and the ranges of its tensors.

    Raises:
        UserError: the model has no int8 counterpart.
    """
    content = _converted(_integer_converter(ready.traced, output))
    return content, file_ranges(_all_tensors(content), ready, ranges=ranges)


def _converter(traced: TracedModel, output: str) -> Any:
    return _converter_of(traced.function(output))


def _converter_of(function: Any) -> Any:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    # It would write a SavedModel and read it again, to freeze just the same in the end.
    converter.experimental_lower_to_saved_model = False
    return converter


def _integer_converter(traced: TracedModel, output: str) -> Any:
    """A converter of a model whose tensors all get a range.

    Raises:
        UserError: the model has loops or conditions; TensorFlow's calibration crashes on them.
    """
    function = traced.function(output)
    if CONTROL_FLOW & set(_operation_types(function.graph.as_graph_def())):
        raise UserError(
            f"model {traced.model.name!r} has loops or conditions (a GRU is one), and no "
            "int8 or int16 ranges are known inside of them. Build its layers with "
            "unroll=True, or choose tflite.dynamic or tflite.weights."
        )
    return _converter_of(function)


def _operation_types(graph: Any) -> Iterator[str]:
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        yield from (node.op for node in nodes)


def _write(converter: Any, path: Path, output: str) -> None:
    path.write_bytes(with_names(_converted(converter), output))


def _converted(converter: Any) -> bytes:
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        with quiet_converters():
            return bytes(converter.convert())
    except (ConverterError, RuntimeError) as error:
        said = str(error).strip()
        culprit = re.search(
            r"^(Custom|Flex|TF Select) ops: .*|^.*not yet supported.*", said, re.MULTILINE
        )
        reason = culprit.group() if culprit else said.splitlines()[0][:300]
        raise UserError(
            f"the TFLite converter refused the model: {reason}\n"
            "A layer has no counterpart in TFLite. Replace it, or choose a recipe that has one."
        ) from error


def _all_tensors(content: bytes) -> Run:
    """A function from an image to what a float file computes of it, by tensor name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tensors are kept is the point
        interpreter = Interpreter(
            model_content=content, num_threads=2, experimental_preserve_all_tensors=True
        )
    interpreter.allocate_tensors()
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    (image_index,) = graph.inputs
    computed = {int(index) for operator in graph.operators for index in operator.outputs}
    indices = {
        graph.tensors[index].name.decode(): index
        for index in (int(image_index), *sorted(computed))
        if graph.tensors[index].type == schema.TensorType.FLOAT32
    }

    def run(image: np.ndarray, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        interpreter.set_tensor(image_index, image[None])
        interpreter.invoke()
        wanted = indices if names is None else names
        return {name: interpreter.get_tensor(indices[name]) for name in wanted}

    return run


def _quantized(content: bytes, kept_float: set[str]) -> bytes:
    """The int8 file of a float file that has ranges.

    The second half of what TFLiteConverter does with `representative_dataset`, whose first half
    finds ranges of its own.

    Args:
        kept_float: operations that stay in float, by the names of their results.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    with quiet_converters():
        return bytes(mlir_quantize(content, denylisted_nodes=kept_float or None))


def _with_edges(content: bytes, input_type: EdgeType, output_type: EdgeType) -> bytes:
    """An int8 file with other types than float32 at its edges."""
    from tensorflow.lite.python.util import modify_model_io_type

    wanted = tf.as_dtype(input_type), tf.as_dtype(output_type)
    with quiet_converters():
        edged = bytes(modify_model_io_type(content, *wanted))
    if edge_types(edged) != (input_type, output_type):
        raise UserError(
            f"input_type {input_type} and output_type {output_type} need an int8 operation at that "
            "edge, and keep_float leaves it in float. Keep fewer layers, or leave it at float32."
        )
    return edged
