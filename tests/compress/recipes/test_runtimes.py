"""The least runtime of a file, against the versions of the operators inside of it."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from compress.recipes.flatbuffer import least_runtime, with_least_runtime
from compress.recipes.runtimes import is_too_new, runtime_of
from compress.recipes.write import write_file
from configs.artifacts import ending
from configs.errors import UserError
from configs.schema.choice import Choice
from configs.schema.files import LeastRuntime
from eval.needs import Runtime
from small_models import random_images
from tflite_files import flatbuffer

Op = schema.BuiltinOperator


def model_with(*middle):
    """A small classifier; its hidden layer is large enough to be rounded in dynamic files."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 3))
    x = layers.Conv2D(32, 3)(layers.Rescaling(1 / 255)(pixels))
    for layer in middle:
        x = layer(x)
    x = layers.Dense(64, activation="relu")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, layers.Dense(3)(x))


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes the file of a model; returns its path and its manifest."""
    images = random_images(4, 8)

    def write_(model, recipe, least=None):
        path = tmp_path_factory.mktemp("files") / f"net.{recipe.split('.')[0]}"
        manifest = write_file(
            Conversion(model, lambda: iter(images)),
            path,
            Choice(name=recipe, options=RECIPES.check(recipe, {})),
            parent="net",
            classes=["a", "b", "c"],
            least_runtime=LeastRuntime(tflite=least),
        )
        return path, manifest

    return write_


def versions(path, kind):
    codes = flatbuffer(path).operatorCodes
    return {c.version for c in codes if max(c.builtinCode, c.deprecatedBuiltinCode) == kind}


@pytest.mark.parametrize(
    ("middle", "recipe", "least"),
    [
        # tflite-runtime 2.14 opened all of these but those that need a newer one.
        ([], "float32", "1.6"),
        ([], "float16", "1.15"),
        ([], "dynamic", "2.17"),  # a scale for each output of a Dense: FULLY_CONNECTED 12
        ([], "weights", "2.7"),  # our DEQUANTIZE by channel
        ([], "int8", "1.14"),
        ([], "int16", "2.6"),
        ([layers.Conv2D(8, 3, activation="gelu")], "float32", "2.9"),
        ([layers.Conv2D(8, 3, groups=4)], "float32", "2.9"),
        ([layers.Conv2D(8, 3, groups=4)], "weights", "2.9"),
        ([layers.Conv2D(8, 3, activation="gelu")], "int16", "2.21"),
    ],
)  # fmt: skip
def test_a_tflite_file_names_the_version_of_its_newest_operator(write, middle, recipe, least):
    path, manifest = write(model_with(*middle), f"tflite.{recipe}")
    assert manifest["runtime"] == {"tflite": least}
    assert runtime_of(path).tflite.startswith(least)


@pytest.mark.parametrize("recipe", ["onnx.float32", "onnx.int8"])
def test_an_onnx_file_names_its_opset_and_its_format(write, recipe):
    _, manifest = write(model_with(), recipe)
    # onnxruntime 1.15 opens these and none that are newer.
    assert manifest["runtime"] == {"opset": 17, "ir": 8}
    assert manifest["outside_xnnpack"] is None


def test_the_manifest_names_the_operators_outside_of_xnnpack(write):
    model = model_with(layers.Conv2D(8, 3, activation="gelu"))
    assert write(model, "tflite.float32")[1]["outside_xnnpack"] == {}
    assert write(model, "tflite.int8")[1]["outside_xnnpack"] == {"GELU": 1, "SOFTMAX": 1}


def test_a_dynamic_file_for_an_older_runtime_has_one_scale_for_a_dense_kernel(write):
    newest, _ = write(model_with(), "tflite.dynamic")
    older, manifest = write(model_with(), "tflite.dynamic", "2.14")
    assert versions(newest, Op.FULLY_CONNECTED) == {12}
    assert max(versions(older, Op.FULLY_CONNECTED)) < 10  # TFLite 2.11 brought 10
    assert manifest["runtime"] == {"tflite": "2.3"}
    assert {len(scales) for scales in dense_scales(newest)} == {64}
    assert {len(scales) for scales in dense_scales(older)} == {1}
    # The rest is what a newer runtime gets.
    assert versions(older, Op.CONV_2D) == versions(newest, Op.CONV_2D)


def dense_scales(path):
    """The scales of every int8 kernel of a Dense layer."""
    model = flatbuffer(path)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kernel = graph.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
        if code.builtinCode == Op.FULLY_CONNECTED and kernel.type == schema.TensorType.INT8:
            yield np.ravel(kernel.quantization.scale)


def test_a_dynamic_file_that_an_older_runtime_opens_anyway_stays_as_it_is(write):
    model = model_with()
    newest, _ = write(model, "tflite.dynamic")
    same, _ = write(model, "tflite.dynamic", "2.17")
    assert newest.read_bytes() == same.read_bytes()


def test_a_recipe_that_needs_a_newer_runtime_is_refused_and_leaves_no_file(write, tmp_path):
    model = model_with(layers.Conv2D(8, 3, activation="gelu"))
    with pytest.raises(UserError, match=r"net.tflite needs TFLite 2.9, .* asks for 2.8\. Choose"):
        write(model, "tflite.float32", "2.8")
    assert write(model, "onnx.float32", "2.8")[1]["runtime"] == {"opset": 17, "ir": 8}


@pytest.mark.parametrize(
    ("tflite", "least", "too_new"),
    [
        ("2.9", "2.14", False),  # numbers, not text
        ("2.14", "2.14", False),
        ("2.14.4", "2.14", True),
        ("2.17", "2.14.1", True),
        ("1.15", "2.1", False),
        (None, "2.14", False),
        ("2.17", None, False),
    ],
)
def test_versions_are_compared_number_by_number(tflite, least, too_new):
    assert is_too_new(Runtime(tflite=tflite), LeastRuntime(tflite=least)) is too_new


def test_a_file_never_says_that_it_needs_less_than_before(write):
    path, _ = write(model_with(), "tflite.float16")
    content = path.read_bytes()
    assert ending(path) == ".tflite"
    assert least_runtime(with_least_runtime(content, "1.6.0")) == "1.15"
    assert least_runtime(with_least_runtime(content, "2.10.0")) == "2.10"


@pytest.mark.parametrize("version", ["2", "new", "2.14rc1", 2.1])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(ValueError, match="tflite"):
        LeastRuntime(tflite=version)


def test_a_file_that_another_tool_damaged_says_nothing_of_its_runtime(write, tmp_path):
    path, _ = write(model_with(), "tflite.float32")
    content = path.read_bytes()
    assert least_runtime(content) is not None
    (tmp_path / "a.tflite").write_bytes(content[:8] + b"\xff" * 64 + content[72:])
    assert runtime_of(tmp_path / "a.tflite") == Runtime()
