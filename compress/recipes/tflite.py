"""TFLite recipes: a Keras model -> a .tflite file with a static batch of 1 and tensors named by us.

A recipe returns what the manifest of its file says beside the usual facts, or nothing.
"""

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from pydantic import Field

from compress.int8.calibration import CalibratedModel
from compress.int8.equalization.equalize import Equalize
from compress.int8.precision import (
    KeepFloat,
    Precision,
    choose_float_operations,
    describe_precision,
)
from compress.int8.ranges import FileRanges, Ranges, TensorReader, choose_ranges
from compress.recipes.conversion import Conversion
from compress.recipes.converters import (
    quiet_converters,
    run_tflite_converter,
    tflite_converter,
    tflite_integer_converter,
)
from compress.recipes.flatbuffer import (
    edge_types,
    operations_of,
    operator_names,
    with_int8_kernels,
    with_least_runtime,
    with_names,
    with_ranges,
)
from configs.errors import UserError
from configs.registry import Registry
from configs.schema.files import OutputKind

RECIPES = Registry("recipe", prefix="tflite.")
NumImages = Annotated[int, Field(gt=0)]
EdgeType = Literal["float32", "uint8", "int8"]
SINCE_INT16 = "2.6.0"
"""The first TFLite with int16 kernels for all `INT16_OPERATORS`."""
INT16_OPERATORS = {
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEQUANTIZE",
    "FULLY_CONNECTED", "LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "QUANTIZE",
    "RELU", "RELU6", "RESHAPE", "SOFTMAX", "SUB", "TANH",
}  # fmt: skip


@RECIPES.add
def float32(conversion: Conversion, path: Path, *, output: OutputKind) -> None:
    """The model as it is."""
    _write(tflite_converter(conversion.traced, output), path, output)


@RECIPES.add
def float16(conversion: Conversion, path: Path, *, output: OutputKind) -> None:
    """float16 weights, float32 arithmetic: half the size."""
    converter = tflite_converter(conversion.traced, output)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    _write(converter, path, output)


def dynamic_by_tensor(conversion: Conversion, path: Path, *, output: OutputKind) -> None:
    """The same as `dynamic` for TFLite before 2.17, which wants one scale for a Dense kernel."""
    converter = _dynamic_converter(conversion, output)
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    _write(converter, path, output)


@RECIPES.add(for_older_runtimes=dynamic_by_tensor)
def dynamic(conversion: Conversion, path: Path, *, output: OutputKind) -> None:
    """int8 weights; the runtime quantizes the activations of every image by their own range."""
    _write(_dynamic_converter(conversion, output), path, output)


def _dynamic_converter(conversion: Conversion, output: OutputKind) -> Any:
    converter = tflite_converter(conversion.traced, output)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


@RECIPES.add
def weights(
    conversion: Conversion,
    path: Path,
    *,
    output: OutputKind,
    num_images: NumImages = 64,
) -> None:
    """int8 weights, float32 arithmetic: a quarter of the size at the speed of floats.

    Args:
        num_images: how many images the biases are corrected on.
    """
    calibrated = conversion.calibrated(num_images)
    content = run_tflite_converter(tflite_converter(calibrated.traced, output))
    path.write_bytes(with_names(with_int8_kernels(content), output))


@RECIPES.add
def int16(
    conversion: Conversion,
    path: Path,
    *,
    output: OutputKind,
    num_images: NumImages = 64,
) -> None:
    """int8 weights and int16 activations, float32 input and output.

    It is for devices with such arithmetic. Runtimes on CPUs execute it many times slower than
    floats. Its ranges cover all values, because 65,535 steps leave room for them.

    Args:
        num_images: how many images the ranges are taken from.
    """
    calibrated = conversion.calibrated(num_images)
    converter = tflite_integer_converter(calibrated.traced, output)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in calibrated.images)
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    ]
    content = run_tflite_converter(converter)
    # The converter names the runtime of the float file: its int16 operators keep their versions.
    is_usual = operator_names(content) <= INT16_OPERATORS
    content = with_least_runtime(content, SINCE_INT16 if is_usual else tf.__version__)
    path.write_bytes(with_names(content, output))


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
    input_type: EdgeType = "float32",
    output_type: EdgeType = "float32",
) -> Precision:
    """int8 weights and activations.

    Args:
        num_images: how many images the ranges of activations are taken from.
        ranges: "loss" keeps the values that the answers depend on, "minmax" keeps all values;
            "mse" and {percentile: 99.99} leave out rare large ones.
        equalize: "auto" scales channels where that makes int8 more accurate; "off" does not. It
            changes no answer of the model. A scaled swish takes one more operation.
        keep_float: names of layers that stay in float; or a share: the fewest operations that save
            this share of the predicted cost of rounding.
        input_type: of the image in the file. uint8 takes the bytes of the photo, int8 takes them
            minus 128.
        output_type: of the answers in the file. The file says by which scale they are read.
    """
    calibrated = conversion.calibrated(num_images, equalize=equalize)
    if input_type != "float32" and not calibrated.of_bytes:
        raise UserError(
            f"input_type {input_type} is for models that take pixels from 0 to 255 as they are. "
            "Put the scaling of the pixels into the model, or leave input_type at float32."
        )
    content, file_ranges = float_file(calibrated, output=output, ranges=ranges)
    operations = operations_of(content)
    in_float = choose_float_operations(operations, file_ranges, calibrated, keep_float)
    quantized = _quantize(with_ranges(content, file_ranges.ranges), in_float)
    typed = _with_edge_types(quantized, input_type, output_type)
    path.write_bytes(with_names(typed, output))
    is_measured = ranges == "loss" or bool(in_float)
    return describe_precision(
        operations, file_ranges, calibrated, in_float, is_measured=is_measured
    )


def float_file(
    calibrated: CalibratedModel, *, output: OutputKind, ranges: Ranges
) -> tuple[bytes, FileRanges]:
    """The float file that becomes the int8 one, and the ranges of its tensors.

    Raises:
        UserError: the model has no int8 counterpart.
    """
    content = run_tflite_converter(tflite_integer_converter(calibrated.traced, output))
    return content, choose_ranges(tensor_reader(content), calibrated, ranges=ranges)


def tensor_reader(content: bytes) -> TensorReader:
    """A function from an image to the tensors that a float file computes, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that all tensors stay in memory
        interpreter = Interpreter(
            model_content=content, num_threads=2, experimental_preserve_all_tensors=True
        )
    interpreter.allocate_tensors()
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    (image_index,) = graph.inputs
    computed = {int(index) for operator in graph.operators for index in operator.outputs}
    # An output of a SPLIT that nothing reads is not computed.
    computed &= {int(i) for operator in graph.operators for i in operator.inputs} | {*graph.outputs}
    indices = {
        graph.tensors[index].name.decode(): index
        for index in (int(image_index), *sorted(computed))
        if graph.tensors[index].type == schema.TensorType.FLOAT32
    }

    def read(image: np.ndarray, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        interpreter.set_tensor(image_index, image[None])
        interpreter.invoke()
        names = indices if names is None else names
        return {name: interpreter.get_tensor(indices[name]) for name in names}

    return read


def _write(converter: Any, path: Path, output: OutputKind) -> None:
    path.write_bytes(with_names(run_tflite_converter(converter), output))


def _quantize(content: bytes, in_float: set[str]) -> bytes:
    """The int8 file of a float file that has ranges.

    This is the second half of what TFLiteConverter does with a `representative_dataset`. Its first
    half would choose the ranges.

    Args:
        in_float: operations that stay in float, by the names of their first outputs.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    with quiet_converters():
        return bytes(mlir_quantize(content, denylisted_nodes=in_float or None))


def _with_edge_types(content: bytes, input_type: EdgeType, output_type: EdgeType) -> bytes:
    """An int8 file with other types than float32 for its input and output."""
    from tensorflow.lite.python.util import modify_model_io_type

    types = tf.as_dtype(input_type), tf.as_dtype(output_type)
    with quiet_converters():
        typed = bytes(modify_model_io_type(content, *types))
    if edge_types(typed) != (input_type, output_type):
        raise UserError(
            f"input_type {input_type} and output_type {output_type} need an int8 operation at that "
            "edge, and keep_float leaves it in float. Keep fewer layers, or leave it at float32."
        )
    return typed
