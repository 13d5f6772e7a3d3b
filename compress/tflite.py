"""TFLite recipes: a Keras model -> a .tflite file with static batch 1 and names of our own."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from pydantic import Field

from compress.graph import INPUT, frozen_function, quiet_converters
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
    num_images: Annotated[int, Field(gt=0)] = 300,
) -> None:
    """int8 weights and activations, float32 at the model's edges.

    Args:
        calibration: images of the training split, seen through the evaluation view.
        num_images: how many of them set the activation ranges.
    """
    converter = _converter(model, output)
    images = calibration_images(calibration, num_images)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images())
    # Without this line an unsupported op silently stays in float32.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    _write(converter, path, output)


def calibration_images(calibration: Images, num_images: int) -> Images:
    """The first `num_images` of the calibration images, of which there must be one.

    Raises:
        UserError: there are none.
    """
    if next(calibration(), None) is None:
        raise UserError(
            "int8 needs calibration photos and got none. Give a folder of photos with --data, "
            "or choose a recipe without calibration (tflite.dynamic, tflite.float16)."
        )
    return lambda: islice((np.asarray(image, "float32") for image in calibration()), num_images)


def _converter(model: keras.Model, output: str) -> Any:
    function = frozen_function(model, output)
    return tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())


def _write(converter: Any, path: Path, output: str) -> None:
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        with quiet_converters():
            content = converter.convert()
    except (ConverterError, RuntimeError) as error:
        said = str(error).strip()
        culprit = re.search(r"^(Custom|Flex) ops: .*|^.*not yet supported.*", said, re.MULTILINE)
        reason = culprit.group() if culprit else said.splitlines()[0][:300]
        raise UserError(
            f"the TFLite converter refused the model: {reason}\n"
            "A layer has no counterpart in TFLite. Replace it, or choose a recipe that has one."
        ) from error
    path.write_bytes(with_names(content, output))


class _AlignedBuilder(flatbuffers.Builder):
    """Packs weights on the boundaries that runtimes expect; the stock builder drops them."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        self.Prep(BUFFER_ALIGNMENT, x.nbytes)
        return int(super().CreateNumpyVector(x))


def with_names(content: bytes, output: str) -> bytes:
    """The same TFLite file with input and output named, as tensors and in its one signature."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [_named(schema, graph, graph.inputs[0], INPUT)]
    signature.outputs = [_named(schema, graph, graph.outputs[0], output)]
    model.signatureDefs = [signature]
    builder = _AlignedBuilder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _named(schema: Any, graph: Any, index: int, name: str) -> Any:
    graph.tensors[index].name = name
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry
