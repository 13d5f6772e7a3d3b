"""ONNX recipes: a Keras model -> an .onnx file with static batch 1 and names of our own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import onnx
from pydantic import Field

from compress.graph import INPUT, frozen_function, quiet_converters
from compress.tflite import Images, calibration_images
from configs.errors import UserError
from configs.registry import Registry

RECIPES = Registry("recipe", prefix="onnx.")
OPSET = 17
"""Older runtimes on devices read it, and it has all that image classifiers need."""


@RECIPES.add
def float32(model: keras.Model, path: Path, *, calibration: Images, output: str) -> None:
    """The model as it is."""
    with quiet_converters():
        onnx.save(_converted(model, output), path)


@RECIPES.add
def int8(
    model: keras.Model,
    path: Path,
    *,
    calibration: Images,
    output: str,
    num_images: Annotated[int, Field(gt=0)] = 300,
) -> None:
    """int8 weights by channel and uint8 activations (QDQ), float32 at the model's edges.

    The combination of types that was the fastest in ONNX Runtime on x86; still measure it
    against the float file, which may be faster.

    Args:
        calibration: images of the training split, seen through the evaluation view.
        num_images: how many of them set the activation ranges.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = calibration_images(calibration, num_images)
    with quiet_converters(), tempfile.TemporaryDirectory() as folder:
        converted, prepared = Path(folder) / "converted.onnx", Path(folder) / "prepared.onnx"
        onnx.save(_converted(model, output), converted)
        quant_pre_process(converted, prepared)
        quantize_static(
            prepared,
            path,
            _CalibrationReader(images()),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


class _CalibrationReader:
    """What onnxruntime reads calibration images from: a `get_next` until None."""

    def __init__(self, images: Iterator[np.ndarray]) -> None:
        self._images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def _converted(model: keras.Model, output: str) -> onnx.ModelProto:
    import tf2onnx

    function = frozen_function(model, output)
    image, result = function.inputs[0].name, function.outputs[0].name
    converted, _ = tf2onnx.convert.from_graph_def(
        function.graph.as_graph_def(),
        input_names=[image],
        output_names=[result],
        opset=OPSET,
    )
    _rename(converted.graph, {image: INPUT, result: output})
    try:
        onnx.checker.check_model(converted)
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"tf2onnx could not convert the model: {str(error).splitlines()[0]}.\n"
            "A layer has no counterpart in ONNX. Replace it, or write TFLite (tflite.float32)."
        ) from error
    return converted


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    taken = {tensor for node in graph.node for tensor in (*node.input, *node.output)} - set(names)
    assert not taken & set(names.values()), f"{taken & set(names.values())} named twice"
    for tensor in (*graph.input, *graph.output):
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]
