import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

from compress.recipes.conversion import Conversion
from compress.recipes.onnx import RECIPES, TYPES
from compress.recipes.write import check_parity
from configs.errors import UserError
from eval.devices.probe import open_model
from small_models import logits_of, random_images, settle


@pytest.fixture(scope="module")
def files(tiny_model, images, tmp_path_factory):
    """A file of the tiny model for every recipe."""
    folder = tmp_path_factory.mktemp("onnx")
    paths = {name.partition(".")[2]: folder / f"{name}.onnx" for name in RECIPES.names()}
    for name, path in paths.items():
        RECIPES[f"onnx.{name}"](
            Conversion(tiny_model, lambda: iter(images)), path, output="probabilities"
        )
    return paths


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def answers(path, images):
    runtime = session(path)
    return np.concatenate([runtime.run(None, {"image": image[None]})[0] for image in images])


def test_there_are_two_recipes():
    assert RECIPES.names() == ["onnx.float32", "onnx.int8"]


@pytest.mark.parametrize(
    ("recipe", "tolerance"),
    [
        ("float32", 1e-6),  # rounding
        ("int8", 0.1),  # 8 bits in weights and activations
    ],
)
def test_a_file_answers_like_its_model(files, recipe, tolerance, tiny_model, images):
    expected = tf.nn.softmax(tiny_model(images)).numpy()
    np.testing.assert_allclose(answers(files[recipe], images), expected, atol=tolerance)


@pytest.mark.parametrize("recipe", ["float32", "int8"])
def test_one_named_input_and_output_of_batch_1(files, recipe):
    runtime = session(files[recipe])
    inputs = [(tensor.name, tensor.shape, tensor.type) for tensor in runtime.get_inputs()]
    outputs = [(tensor.name, tensor.shape, tensor.type) for tensor in runtime.get_outputs()]
    assert inputs == [("image", [1, 16, 16, 3], "tensor(float)")]
    assert outputs == [("probabilities", [1, 4], "tensor(float)")]


def test_int8_has_weights_by_channel_in_int8_and_activations_in_uint8(files):
    graph = onnx.load(files["int8"]).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for node in convolutions:
        activation, weight = (producers[name] for name in node.input[:2])
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert constants[activation.input[2]].data_type == onnx.TensorProto.UINT8
        assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert list(constants[weight.input[1]].dims) == [8]


@pytest.mark.parametrize(
    ("cpu", "activations", "largest"),
    [("x86_vnni", "uint8", 127), ("x86", "uint8", 64), ("arm", "int8", 127)],
)
def test_types_are_those_of_the_cpu(cpu, activations, largest, tiny_model, images, tmp_path):
    path = tmp_path / f"{cpu}.onnx"
    facts = RECIPES["onnx.int8"](
        Conversion(tiny_model, lambda: iter(images)), path, output="probabilities", cpu=cpu
    )
    assert (facts.cpu, facts.activations, facts.kernel_steps) == (
        cpu,
        activations,
        largest,
    )
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].dtype == activations
        if node.op_type in ("Conv", "Gemm"):
            kernel = constants[producers[node.input[1]].input[0]]
            assert kernel.dtype == "int8"
            assert np.abs(kernel.astype("int")).max() == largest
    expected = tf.nn.softmax(tiny_model(images)).numpy()
    # 8 bits, or 7 in the weights.
    np.testing.assert_allclose(answers(path, images), expected, atol=0.1)


def test_no_pair_of_products_of_a_file_for_plain_x86_overflows_16_bits():
    largest = np.iinfo("uint8").max
    assert 2 * largest * TYPES["x86"].kernel_steps <= np.iinfo("int16").max
    assert 2 * largest * TYPES["x86_vnni"].kernel_steps > np.iinfo("int16").max


def test_an_unknown_cpu_is_refused():
    with pytest.raises(UserError, match=r"option cpu .* is 'riscv'"):
        RECIPES.check("onnx.int8", {"cpu": "riscv"})


def test_int8_calibrates_on_the_first_num_images(tiny_model, images, tmp_path):
    def first_three():
        yield from images[:3]
        pytest.fail("read a fourth image")

    path = tmp_path / "file.onnx"
    RECIPES["onnx.int8"](Conversion(tiny_model, first_three), path, output="logits", num_images=3)
    assert [tensor.name for tensor in session(path).get_outputs()] == ["logits"]


def test_int8_without_calibration_images_is_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match="needs calibration photos"):
        RECIPES["onnx.int8"](Conversion(tiny_model), tmp_path / "file.onnx", output="logits")


def test_standard_output_stays_clean(tiny_model, images, tmp_path, capsys):
    RECIPES["onnx.int8"](
        Conversion(tiny_model, lambda: iter(images)), tmp_path / "file.onnx", output="logits"
    )
    assert capsys.readouterr().out == ""


def test_a_model_that_ends_in_softmax_gets_no_second_one(images, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    path = tmp_path / "foreign.onnx"
    RECIPES["onnx.float32"](Conversion(model), path, output="probabilities")
    np.testing.assert_allclose(answers(path, images), model(images), atol=1e-6)


def test_a_layer_without_counterpart_is_named(tmp_path):
    pixels = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(pixels)
    model = keras.Model(pixels, layers.Lambda(lambda x: tf.math.igamma(x + 1.0, x))(x))
    with pytest.raises(UserError, match="Igamma"):
        RECIPES["onnx.float32"](Conversion(model), tmp_path / "file.onnx", output="logits")


def test_efficientnet_crosses_exactly(efficientnet, tmp_path):
    images = np.random.default_rng(2).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    path = tmp_path / "b0.onnx"
    RECIPES["onnx.float32"](Conversion(efficientnet, lambda: iter(images)), path, output="logits")
    assert [tensor.name for tensor in session(path).get_inputs()] == ["image"]
    assert check_parity(efficientnet, path, images, output="logits") < 1e-4


def test_int8_logits_have_a_range_from_all_images(tiny_model, images, tmp_path):
    path = tmp_path / "logits.onnx"
    black = np.zeros_like(images[:1])  # its logits are ten times those of the noise before it
    calibration = np.concatenate([images, black])
    RECIPES["onnx.int8"](
        Conversion(tiny_model, lambda: iter(calibration)), path, output="logits", ranges="minmax"
    )
    logits = session(path).run(None, {"image": black})[0]
    expected = tiny_model(black).numpy()
    # A dozen tensors of 8 bits.
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


def test_the_sum_of_a_residual_connection_of_one_pixel_is_no_second_bias(tmp_path):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 4, use_bias=False)(pixels)  # one pixel is left
    x = layers.BatchNormalization()(x)
    y = layers.Conv2D(6, 1, use_bias=False)(layers.ReLU()(x))
    x = layers.Add()([layers.BatchNormalization()(y), x])
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    photos = random_images(8, 4)
    settle(model, photos)
    path = tmp_path / "sum.onnx"
    RECIPES["onnx.int8"](Conversion(model, lambda: iter(photos)), path, output="logits")
    exact = logits_of(model, photos)
    assert np.abs(open_model(path).predict(photos) - exact).max() < 0.1 * np.abs(exact).max()
