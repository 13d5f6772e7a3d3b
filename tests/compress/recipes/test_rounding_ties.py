"""Pixels in -1..1: in int8 every byte would lie half-way between two steps."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from eval.devices.probe import open_model
from small_models import settle

SIZE = 16
BYTES = np.random.default_rng(3).integers(20, 230, (24, SIZE, SIZE, 3)).astype("float32")
"""Photos without black and white: the range of the bytes is wider than theirs."""
NORMALIZATIONS = {
    "rescaled": lambda: [layers.Rescaling(1 / 127.5, offset=-1)],
    "normalized": lambda: [layers.Normalization(mean=127.5, variance=127.5**2, axis=None)],
    "one last bit off": lambda: [layers.Rescaling(1 / 127.5, offset=-1 + 6e-8)],
    # A model that gets -1..1 from outside has this before it.
    "wrapped": lambda: [
        layers.Normalization(mean=[127.5] * 3, variance=[127.5**2] * 3),
        layers.Dropout(0.1),
    ],
}


def build(normalization: str, padding: str) -> keras.Model:
    keras.utils.set_random_seed(5)
    pixels = x = keras.Input((SIZE, SIZE, 3), name="image")
    for layer in NORMALIZATIONS[normalization]():
        x = layer(x)
    x = layers.ZeroPadding2D(2)(x) if padding == "padded" else x
    x = layers.Conv2D(8, 4, strides=4, activation="relu", name="patches")(x)
    x = layers.BatchNormalization(name="norm")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(pixels, layers.Dense(4, name="logits")(x))
    if normalization == "rescaled":
        return settle(model, BYTES)
    same = build("rescaled", padding)
    for name in ("patches", "norm", "logits"):
        model.get_layer(name).set_weights(same.get_layer(name).get_weights())
    return model


@pytest.mark.parametrize("recipe", ["tflite.int8", "onnx.int8"])
@pytest.mark.parametrize("padding", ["padded", "not padded"])
def test_files_of_one_model_answer_alike_whatever_normalizes_its_pixels(
    recipe, padding, tmp_path
) -> None:
    answers = {}
    for name in NORMALIZATIONS:
        path = tmp_path / f"{name}.{recipe.partition('.')[0]}"
        conversion = Conversion(build(name, padding), lambda: iter(BYTES))
        RECIPES[recipe](conversion, path, output="logits")
        answers[name] = open_model(path).predict(BYTES)
    expected = build("rescaled", padding).predict_on_batch(BYTES)
    for name, logits in answers.items():
        # The last bit of a constant moves the edge of a step, so single steps may differ.
        np.testing.assert_allclose(logits, answers["rescaled"], atol=0.05 * np.ptp(expected))
        assert (logits.argmax(1) == answers["rescaled"].argmax(1)).all(), name


def test_an_int8_file_reads_every_byte_as_it_is_before_padding(tmp_path) -> None:
    path = tmp_path / "int8.tflite"
    conversion = Conversion(build("rescaled", "padded"), lambda: iter(BYTES))
    RECIPES["tflite.int8"](conversion, path, output="logits")
    interpreter = Interpreter(str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    image = np.arange(SIZE * SIZE * 3, dtype="float32").reshape(1, SIZE, SIZE, 3) % 256
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    centred = []
    for details in interpreter.get_tensor_details():
        scale, zero_point = details["quantization"]
        if tuple(details["shape"]) == image.shape and details["dtype"] == np.int8:
            codes = interpreter.get_tensor(details["index"]).astype("float32")
            centred.append(scale * (codes - zero_point))
    assert any(np.allclose(values, image - 128, atol=1e-3) for values in centred)
