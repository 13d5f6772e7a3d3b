"""TFLite recipes: a Keras model -> a .tflite file with static batch 1 and names of our own."""

import re
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from pydantic import Field

from compress.graph import INPUT, frozen_function, quiet_converters
from compress.ranges import Range, Ranges, file_ranges
from compress.rewrites import prepared
from configs.errors import UserError
from configs.registry import Registry

Images = Callable[[], Iterator[np.ndarray]]
"""Starts an iterator of calibration images, float32 (height, width, 3)."""
RECIPES = Registry("recipe", prefix="tflite.")
SIGNATURE = "serving_default"
BUFFER_ALIGNMENT = 16
"""Bytes; the schema asks for it (force_align)."""


@RECIPES.add
def float32(model: keras.Model, path: Path, *, calibration: Images, output: str) -> None:
    """The model as it is."""
    _write(_converter(model, output), path, output)


@RECIPES.add
def float16(model: keras.Model, path: Path, *, calibration: Images, output: str) -> None:
    """float16 weights, float32 arithmetic: half the size."""
    converter = _converter(model, output)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    _write(converter, path, output)


@RECIPES.add
def dynamic(model: keras.Model, path: Path, *, calibration: Images, output: str) -> None:
    """int8 weights; activations are quantized by the range each image turns out to have."""
    converter = _converter(model, output)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    _write(converter, path, output)


@RECIPES.add
def int8(
    model: keras.Model,
    path: Path,
    *,
    calibration: Images,
    output: str,
    num_images: Annotated[int, Field(gt=0)] = 64,
    ranges: Ranges = "loss",
) -> None:
    """int8 weights and activations, float32 at the model's edges.

    Args:
        calibration: images of the training split, seen through the evaluation view.
        num_images: how many of them set the activation ranges.
        ranges: "loss" keeps the values that the answers depend on, "minmax" keeps all.
    """
    images = calibration_images(calibration, num_images)
    model = prepared(model, images)
    content = _converted(_converter(model, output))
    found = file_ranges(_all_tensors(content), model, images, ranges=ranges)
    path.write_bytes(with_names(_quantized(with_ranges(content, found)), output))


def calibration_images(calibration: Images, num_images: int) -> np.ndarray:
    """The first `num_images` of the calibration images, (images, height, width, 3) in float32.

    Raises:
        UserError: there are none.
    """
    images = [np.asarray(image, "float32") for image in islice(calibration(), num_images)]
    if not images:
        raise UserError(
            "int8 needs calibration photos and got none. Give a folder of photos with --data, "
            "or choose a recipe without calibration (tflite.dynamic, tflite.float16)."
        )
    return np.stack(images)


def _converter(model: keras.Model, output: str) -> Any:
    function = frozen_function(model, output)
    return tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())


def _write(converter: Any, path: Path, output: str) -> None:
    path.write_bytes(with_names(_converted(converter), output))


def _converted(converter: Any) -> bytes:
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        with quiet_converters():
            return bytes(converter.convert())
    except (ConverterError, RuntimeError) as error:
        said = str(error).strip()
        culprit = re.search(r"^(Custom|Flex) ops: .*|^.*not yet supported.*", said, re.MULTILINE)
        reason = culprit.group() if culprit else said.splitlines()[0][:300]
        raise UserError(
            f"the TFLite converter refused the model: {reason}\n"
            "A layer has no counterpart in TFLite. Replace it, or choose a recipe that has one."
        ) from error


def _all_tensors(content: bytes) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from an image to everything that a float file computes of it, by tensor name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tensors are kept is the point
        interpreter = Interpreter(
            model_content=content, num_threads=2, experimental_preserve_all_tensors=True
        )
    interpreter.allocate_tensors()
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    (image_index,) = graph.inputs
    indices = {int(index) for operator in graph.operators for index in operator.outputs}
    names = {
        index: graph.tensors[index].name.decode()
        for index in (int(image_index), *sorted(indices))
        if graph.tensors[index].type == schema.TensorType.FLOAT32
    }

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.set_tensor(image_index, image[None])
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for index, name in names.items()}

    return run


def with_ranges(content: bytes, ranges: dict[str, Range]) -> bytes:
    """A float file that says which range each tensor has, as the quantizer reads it."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for tensor in model.subgraphs[0].tensors:
        if (name := tensor.name.decode()) in ranges:
            tensor.quantization = schema.QuantizationParametersT()
            low, high = ranges[name]
            tensor.quantization.min, tensor.quantization.max = [low], [high]
    return packed(model)


def _quantized(content: bytes) -> bytes:
    """The int8 file of a float file that has ranges.

    The second half of what TFLiteConverter does with `representative_dataset`, whose first half
    finds ranges of its own.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    with quiet_converters():
        return bytes(mlir_quantize(content))


class _AlignedBuilder(flatbuffers.Builder):
    """Packs weights on the boundaries that runtimes expect; the stock builder drops them."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        self.Prep(BUFFER_ALIGNMENT, x.nbytes)
        return int(super().CreateNumpyVector(x))


def with_names(content: bytes, output: str) -> bytes:
    """The same TFLite file with input and output named, as tensors and in its one signature."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [_named(graph, graph.inputs[0], INPUT)]
    signature.outputs = [_named(graph, graph.outputs[0], output)]
    model.signatureDefs = [signature]
    return packed(model)


def packed(model: Any) -> bytes:
    """The bytes of a TFLite model given as the schema's ModelT."""
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _named(graph: Any, index: int, name: str) -> Any:
    graph.tensors[index].name = name
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry
