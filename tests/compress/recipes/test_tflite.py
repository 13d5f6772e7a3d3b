import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from compress.recipes.conversion import Conversion
from compress.recipes.tflite import RECIPES
from compress.recipes.write import check_parity
from configs.errors import UserError
from eval.devices.probe import open_model
from small_models import random_images
from tflite_files import flatbuffer, float_tensors


@pytest.fixture(scope="module")
def files(tiny_model, images, tmp_path_factory):
    """A file of the tiny model for every recipe."""
    folder = tmp_path_factory.mktemp("tflite")
    paths = {name.partition(".")[2]: folder / f"{name}.tflite" for name in RECIPES.names()}
    for name, path in paths.items():
        RECIPES[f"tflite.{name}"](
            Conversion(tiny_model, lambda: iter(images)), path, output="probabilities"
        )
    return paths


def answers(path, images):
    runner = Interpreter(str(path)).get_signature_runner()
    return np.concatenate([runner(image=image[None])["probabilities"] for image in images])


def test_there_are_six_recipes():
    names = ["dynamic", "float16", "float32", "int16", "int8", "weights"]
    assert RECIPES.names() == [f"tflite.{name}" for name in names]


@pytest.mark.parametrize(
    ("recipe", "tolerance"),
    [
        ("float32", 1e-6),  # rounding
        ("float16", 2e-3),  # weights keep 11 bits, and a dozen layers add their errors
        ("dynamic", 0.05),  # weights keep 8 bits
        ("weights", 0.02),  # the same, and biases make up for their mean errors
        ("int16", 0.02),  # weights keep 8 bits, activations 16
        ("int8", 0.1),  # weights and activations keep 8 bits
    ],
)
def test_a_file_answers_like_its_model(files, recipe, tolerance, tiny_model, images):
    expected = tf.nn.softmax(tiny_model(images)).numpy()
    np.testing.assert_allclose(answers(files[recipe], images), expected, atol=tolerance)


@pytest.mark.parametrize("recipe", ["float32", "float16", "dynamic", "int8", "int16", "weights"])
def test_tensors_and_signature_are_named_and_the_edges_float32_of_batch_1(files, recipe):
    interpreter = Interpreter(str(files[recipe]))
    (image,), (probs,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["name"], probs["name"]) == ("image", "probabilities")
    assert (image["dtype"], probs["dtype"]) == (np.float32, np.float32)
    assert (list(image["shape"]), list(probs["shape"])) == ([1, 16, 16, 3], [1, 4])
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}
    }


@pytest.mark.parametrize("recipe", ["float32", "int8", "weights"])
def test_weights_are_aligned_as_runtimes_expect(files, recipe):
    content = files[recipe].read_bytes()
    model = schema.Model.GetRootAsModel(content)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    with_data = [buffer for buffer in buffers if buffer.DataLength()]
    assert len(with_data) > 5
    starts = {buffer._tab.Vector(buffer._tab.Offset(4)) % 16 for buffer in with_data}
    assert starts == {0}


@pytest.mark.parametrize("recipe", ["int8", "int16"])
def test_an_integer_file_is_float_only_at_its_edges(files, recipe):
    graph = flatbuffer(files[recipe]).subgraphs[0]
    assert float_tensors(files[recipe]) == {int(graph.inputs[0]), int(graph.outputs[0])}


@pytest.mark.parametrize(("kind", "zero"), [("uint8", 0), ("int8", -128)])
def test_integer_edges_leave_no_float_and_take_the_bytes_of_a_photo(
    kind, zero, tiny_model, images, tmp_path
):
    photos = np.round(images)

    def written(name, **options):
        path = tmp_path / f"{name}.tflite"
        RECIPES["tflite.int8"](
            Conversion(tiny_model, lambda: iter(photos)), path, output="probabilities", **options
        )
        return path

    path = written("edges", input_type=kind, output_type=kind)
    assert float_tensors(path) == set()
    interpreter = Interpreter(str(path))
    (image,), (probs,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["dtype"], probs["dtype"]) == (np.dtype(kind), np.dtype(kind))
    assert image["quantization"] == (1.0, zero)
    # The same arithmetic between the edges.
    np.testing.assert_array_equal(
        open_model(path).predict(photos), open_model(written("floats")).predict(photos)
    )


def test_an_integer_input_of_scaled_pixels_is_refused(tiny_model, images, tmp_path):
    with pytest.raises(UserError, match="input_type uint8 is for models that take pixels"):
        RECIPES["tflite.int8"](
            Conversion(tiny_model, lambda: iter(images / 255)),
            tmp_path / "file",
            output="logits",
            input_type="uint8",
        )


def test_a_weights_file_stores_kernels_as_int8_by_channel_and_computes_in_float(files):
    graph = flatbuffer(files["weights"]).subgraphs[0]
    tensors = graph.tensors
    stored = [t for t in tensors if t.type == schema.TensorType.INT8]
    assert [len(t.quantization.scale) for t in stored] == [8, 8, 8, 8, 16, 4]
    kernels = {int(o.outputs[0]) for o in graph.operators if tensors[o.inputs[0]] in stored}
    assert len(kernels) == len(stored)
    others = [o for o in graph.operators if int(o.outputs[0]) not in kernels]
    assert all(tensors[o.outputs[0]].type == schema.TensorType.FLOAT32 for o in others)
    codes = flatbuffer(files["weights"]).operatorCodes
    (dequantize,) = [c for c in codes if c.builtinCode == schema.BuiltinOperator.DEQUANTIZE]
    assert dequantize.version == 5  # the first that takes scales by channel


@pytest.fixture(scope="module")
def looping(images):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3))
    rows = layers.Reshape((7, 28))(layers.Conv2D(4, 3, strides=2)(pixels))
    return keras.Model(pixels, layers.Dense(3)(layers.GRU(5)(rows)))


def test_weights_of_a_model_with_a_loop_are_stored_as_int8(looping, images, tmp_path):
    path = tmp_path / "file.tflite"
    RECIPES["tflite.weights"](
        Conversion(looping, lambda: iter(images)), path, output="probabilities"
    )
    assert len(flatbuffer(path).subgraphs) == 3
    expected = tf.nn.softmax(looping(images)).numpy()
    np.testing.assert_allclose(answers(path, images), expected, atol=0.02)


@pytest.mark.parametrize("recipe", ["int8", "int16"])
def test_integer_files_of_a_model_with_a_loop_are_refused(recipe, looping, images, tmp_path):
    with pytest.raises(UserError, match="has loops or conditions"):
        RECIPES[f"tflite.{recipe}"](
            Conversion(looping, lambda: iter(images)), tmp_path / "file", output="logits"
        )


def test_an_unrolled_loop_becomes_an_int8_file(tmp_path):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.GRU(6, unroll=True)(layers.Reshape((4, 48))(x))
    model, photos = keras.Model(pixels, layers.Dense(3)(x)), random_images(8, 8)
    path = tmp_path / "unrolled.tflite"
    RECIPES["tflite.int8"](Conversion(model, lambda: iter(photos)), path, output="probabilities")
    expected = tf.nn.softmax(model(photos)).numpy()
    # Some dozens of tensors of 8 bits.
    np.testing.assert_allclose(open_model(path).predict(photos), expected, atol=0.1)


def test_float16_halves_and_int8_quarters_the_weights(files):
    def weight_bytes(recipe):
        return sum(len(b.data) for b in flatbuffer(files[recipe]).buffers if b.data is not None)

    # Biases stay wide and tiny files hold other constants: the bounds are loose.
    assert weight_bytes("float16") < 0.7 * weight_bytes("float32")
    assert weight_bytes("int8") < 0.6 * weight_bytes("float32")


def test_int8_calibrates_on_the_first_num_images(tiny_model, images, tmp_path):
    def first_three():
        yield from images[:3]
        pytest.fail("read a fourth image")

    RECIPES["tflite.int8"](
        Conversion(tiny_model, first_three), tmp_path / "file", output="logits", num_images=3
    )
    (logits,) = Interpreter(str(tmp_path / "file")).get_output_details()
    assert logits["name"] == "logits"


def test_int8_without_calibration_images_is_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match="needs calibration photos"):
        RECIPES["tflite.int8"](Conversion(tiny_model), tmp_path / "file", output="logits")


def test_num_images_must_be_positive():
    with pytest.raises(UserError, match="num_images"):
        RECIPES.check("tflite.int8", {"num_images": 0})


def test_standard_output_stays_clean(tiny_model, images, tmp_path, capsys):
    RECIPES["tflite.int8"](
        Conversion(tiny_model, lambda: iter(images)), tmp_path / "file", output="logits"
    )
    assert capsys.readouterr().out == ""


def test_a_foreign_two_class_model_becomes_a_file_with_two_classes(images, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    path = tmp_path / "foreign.tflite"
    RECIPES["tflite.float32"](Conversion(model), path, output="probabilities")
    second = model(images).numpy()
    np.testing.assert_allclose(
        answers(path, images), np.concatenate([1 - second, second], axis=1), atol=1e-6
    )
    assert check_parity(model, path, images) < 1e-6


def test_a_layer_without_counterpart_is_named(tmp_path):
    pixels = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(pixels)
    model = keras.Model(pixels, layers.Lambda(lambda x: tf.math.igamma(x + 1.0, x))(x))
    with pytest.raises(UserError, match="Custom ops: Igamma"):
        RECIPES["tflite.float32"](Conversion(model), tmp_path / "file", output="logits")


def test_efficientnet_crosses_exactly(efficientnet, tmp_path):
    images = np.random.default_rng(2).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    path = tmp_path / "b0.tflite"
    RECIPES["tflite.float32"](Conversion(efficientnet, lambda: iter(images)), path, output="logits")
    assert check_parity(efficientnet, path, images, output="logits") < 1e-4
