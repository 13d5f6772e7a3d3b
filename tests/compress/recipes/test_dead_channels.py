"""Channels that are dead or constant: int8 files have no scale of 0 and answer no nan."""

import keras
import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from compress.graph.replay import copy_model
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from eval.devices.probe import open_model
from tflite_files import flatbuffer

ANY = slice(None)


def zero(model: keras.Model, name: str, channels: slice = ANY, *, bias: float = 0.0) -> None:
    """Make channels of a layer answer with its bias alone."""
    layer = model.get_layer(name)
    kernel = np.asarray(layer.kernel).copy()
    kernel[(..., channels, ANY) if name == "depthwise" else (..., channels)] = 0
    layer.kernel.assign(kernel)
    if layer.use_bias:
        values = np.asarray(layer.bias).copy()
        values[channels] = bias
        layer.bias.assign(values)


def kill_relu(model: keras.Model) -> None:
    """The ReLU6 behind the depthwise convolution returns 0 for half of its channels."""
    norm = model.layers[model.layers.index(model.get_layer("depthwise")) + 1]
    norm.beta.assign(np.where(np.arange(8) < 4, -1e3, norm.beta))


def no_variance(model: keras.Model) -> None:
    """A BatchNormalization whose scale is 0: a constant feature map."""
    norm = model.layers[model.layers.index(model.get_layer("stem")) + 1]
    norm.gamma.assign(np.where(np.arange(8) < 7, 0.0, norm.gamma))


CHANGES = {
    "half of the stem": lambda model: zero(model, "stem", slice(0, 4)),
    "the stem": lambda model: zero(model, "stem"),
    "half of the depthwise": lambda model: zero(model, "depthwise", slice(0, 4)),
    "the depthwise": lambda model: zero(model, "depthwise"),
    "the gate at 0": lambda model: zero(model, "gate", bias=-1e4),
    "the gate at 1/2": lambda model: zero(model, "gate"),
    "the projection": lambda model: zero(model, "project"),
    "a constant projection": lambda model: zero(model, "project", bias=7.0),
    "the hidden layer": lambda model: zero(model, "hidden", bias=-20.0),
    "the logits": lambda model: zero(model, "logits"),
    "dead by ReLU6": kill_relu,
    "constant by its norm": no_variance,
}


@pytest.fixture(scope="module", params=CHANGES)
def dead(request, tiny_model) -> keras.Model:
    model = copy_model(tiny_model)
    CHANGES[request.param](model)
    return model


def scales_of_tflite(path) -> np.ndarray:
    tensors = flatbuffer(path).subgraphs[0].tensors
    quantized = [t.quantization.scale for t in tensors if t.quantization is not None]
    return np.concatenate([np.ravel(scale) for scale in quantized if scale is not None])


def scales_of_onnx(path) -> np.ndarray:
    graph = onnx.load(path).graph
    names = {node.input[1] for node in graph.node if node.op_type.endswith("quantizeLinear")}
    names |= {node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return np.concatenate([np.ravel(arrays[name]) for name in names])


def without_delegate(path, images: np.ndarray) -> np.ndarray:
    """The answers of a file without XNNPACK."""
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    runner = interpreter.get_signature_runner()
    return np.concatenate([next(iter(runner(image=image[None]).values())) for image in images])


@pytest.mark.parametrize("recipe", ["tflite.int8", "onnx.int8"])
def test_dead_and_constant_channels_have_a_scale_and_a_finite_answer(
    recipe, dead, images, tmp_path
) -> None:
    path = tmp_path / f"dead.{recipe.partition('.')[0]}"
    RECIPES[recipe](Conversion(dead, lambda: iter(images)), path, output="probabilities")
    scales = scales_of_tflite(path) if path.suffix == ".tflite" else scales_of_onnx(path)
    assert len(scales) > 10
    assert (scales > 0).all()
    assert np.isfinite(scales).all()
    unlike = np.stack([np.zeros_like(images[0]), np.full_like(images[0], 255.0)])
    photos = np.concatenate([images, unlike])
    answers = open_model(path).predict(photos)
    assert np.isfinite(answers).all()
    expected = keras.ops.softmax(dead.predict_on_batch(images)).numpy()
    # 8 bits, through a dozen layers.
    np.testing.assert_allclose(answers[: len(images)], expected, atol=0.1)
    if path.suffix == ".tflite":
        # Both round, in their own way: at most two steps of a probability, which has 256.
        np.testing.assert_allclose(without_delegate(path, photos), answers, atol=2.01 / 256)


@pytest.mark.parametrize("recipe", ["tflite.int8", "onnx.int8"])
def test_calibration_photos_of_one_colour_give_finite_answers(recipe, tiny_model, tmp_path) -> None:
    path = tmp_path / f"black.{recipe.partition('.')[0]}"
    black = np.zeros((4, 16, 16, 3), "float32")
    RECIPES[recipe](Conversion(tiny_model, lambda: iter(black)), path, output="probabilities")
    scales = scales_of_tflite(path) if path.suffix == ".tflite" else scales_of_onnx(path)
    assert (scales > 0).all()
    assert np.isfinite(open_model(path).predict(np.concatenate([black, black + 200]))).all()


@pytest.mark.parametrize("recipe", ["tflite.dynamic", "tflite.weights", "tflite.int16"])
def test_other_files_of_a_dead_model_answer_like_it(recipe, dead, images, tmp_path) -> None:
    path = tmp_path / "dead.tflite"
    RECIPES[recipe](Conversion(dead, lambda: iter(images)), path, output="probabilities")
    expected = keras.ops.softmax(dead.predict_on_batch(images)).numpy()
    answers = open_model(path).predict(images)
    np.testing.assert_allclose(answers, expected, atol=0.05)
