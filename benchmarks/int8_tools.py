"""The tools that `quantization.py` compares: each writes an int8 file of a Keras model."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

Calibration = Callable[[], Iterator[np.ndarray]]
Tool = Callable[[Any, Path, Calibration, int], None]
"""(Keras model, path, calibration photos, how many of them) -> writes the file."""
FLOAT, STOCK = "float32", "TFLiteConverter"


def keras_converter(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    """TensorFlow's converter as its guide shows it."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    write_int8(converter, path, calibration, num_images)


def static_converter(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    """TensorFlow's converter on a function with a batch of 1, as our recipes use it."""
    from compress.graph.inference import TracedModel
    from compress.recipes.converters import tflite_converter

    converter = tflite_converter(TracedModel(model), "probabilities")
    write_int8(converter, path, calibration, num_images)


def write_int8(converter: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    import tensorflow as tf

    from compress.recipes.converters import quiet_converters

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [image[None]] for image in islice(calibration(), num_images)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with quiet_converters():
        path.write_bytes(converter.convert())


def litert_quantizer(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    from litert_quantizer import quantizer, recipe

    from compress.graph.inference import TracedModel
    from compress.graph.tensor_names import INPUT
    from compress.recipes import flatbuffer
    from compress.recipes.converters import run_tflite_converter, tflite_converter

    content = run_tflite_converter(tflite_converter(TracedModel(model), "probabilities"))
    content = flatbuffer.with_names(content, "probabilities")
    tool = quantizer.Quantizer(content, recipe.static_wi8_ai8())
    images = [{INPUT: image[None]} for image in islice(calibration(), num_images)]
    ranges = tool.calibrate({flatbuffer.SIGNATURE: images}, num_threads=2)
    path.write_bytes(tool.quantize(ranges, enable_progress_report=False).quantized_model)


def onnxruntime(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from compress.graph.inference import TracedModel
    from compress.onnx.convert import convert_to_onnx
    from compress.recipes.converters import quiet_converters
    from compress.recipes.onnx import CalibrationReader

    with quiet_converters(), tempfile.TemporaryDirectory() as folder:
        converted, prepared = Path(folder) / "converted.onnx", Path(folder) / "prepared.onnx"
        onnx.save(convert_to_onnx(TracedModel(model), "probabilities"), converted)
        quant_pre_process(converted, prepared)
        quantize_static(
            prepared,
            path,
            CalibrationReader(islice(calibration(), num_images)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


def nncf(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    import nncf
    import onnx

    from compress.graph.inference import TracedModel
    from compress.graph.tensor_names import INPUT
    from compress.onnx.convert import convert_to_onnx
    from compress.recipes.converters import quiet_converters

    with quiet_converters():
        converted = convert_to_onnx(TracedModel(model), "probabilities")
    images = [image[None] for image in islice(calibration(), num_images)]
    dataset = nncf.Dataset(images, lambda image: {INPUT: image})
    onnx.save(nncf.quantize(converted, dataset, subset_size=num_images), path)


def ours(recipe: str, **options: Any) -> Tool:
    """Our recipe with its defaults, except for some options."""

    def write(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
        from compress.recipes import RECIPES
        from compress.recipes.conversion import Conversion

        RECIPES[recipe](Conversion(model, calibration), path, output="probabilities", **options)

    return write


TOOLS: dict[str, tuple[str, Tool]] = {
    FLOAT: ("tflite", ours("tflite.float32")),
    "TFLiteConverter.from_keras_model": ("tflite", keras_converter),
    STOCK: ("tflite", static_converter),
    "litert-quantizer": ("tflite", litert_quantizer),
    "tflite.int8, equalize: off": ("tflite", ours("tflite.int8", equalize="off")),
    "tflite.int8": ("tflite", ours("tflite.int8")),
    "onnx.float32": ("onnx", ours("onnx.float32")),
    "onnxruntime": ("onnx", onnxruntime),
    "onnx.int8, equalize: off": ("onnx", ours("onnx.int8", equalize="off")),
    "onnx.int8": ("onnx", ours("onnx.int8")),
    "NNCF": ("onnx", nncf),
}
PACKAGES = {"litert-quantizer": ["litert_quantizer"], "NNCF": ["nncf", "openvino"]}
"""Packages that a tool needs and Potstill does not."""
