import pytest

from compress.graph.replay import copy_model
from compress.int8.precision import Precision, RoundingCost
from compress.recipes.conversion import Conversion
from compress.recipes.onnx import OnnxInt8
from compress.recipes.tflite import RECIPES
from compress.recipes.write import FileManifest, check_parity, file_name, keeps_float32
from configs.errors import StepFailed
from eval.needs import Runtime


def test_parity_of_a_float_file_is_measured_and_a_wrong_file_refused(tiny_model, images, tmp_path):
    path = tmp_path / "tiny.tflite"
    RECIPES["tflite.float32"](Conversion(tiny_model, lambda: iter(images)), path, output="logits")
    assert check_parity(tiny_model, path, images, output="logits") < 1e-5
    other = copy_model(tiny_model)
    bias = other.get_layer("logits").bias
    bias.assign(bias + 0.01)
    with pytest.raises(StepFailed, match=r"differs from its Keras model by up to 0\.01"):
        check_parity(other, path, images, output="logits")


def test_a_file_is_named_by_its_parent_its_recipe_and_its_format() -> None:
    assert file_name("student", "tflite.int8") == "student-int8.tflite"
    assert keeps_float32("onnx.float32")
    assert not keeps_float32("onnx.int8")


def test_a_manifest_has_the_facts_of_the_recipe_beside_its_own() -> None:
    runtime = Runtime(tflite="2.17")
    others = {"SOFTMAX": 1}
    manifest = FileManifest("student", "tflite.int8", "tflite", None, None, runtime, others, 1000)
    common = {
        "source": "student",
        "recipe": "tflite.int8",
        "format": "tflite",
        "parity": None,
        "runtime": {"tflite": "2.17"},
        "outside_xnnpack": {"SOFTMAX": 1},
        "zip_bytes": 1000,
    }
    assert manifest.with_details(None) == common
    precision = Precision(equalized=[], kept_float=["stem"], rounding=[RoundingCost("swish", 0.01)])
    assert manifest.with_details(precision) == {
        **common,
        "equalized": [],
        "kept_float": ["stem"],
        "rounding": [{"layer": "swish", "nats": 0.01}],
    }
    onnx = {"cpu": "arm", "activations": "int8", "kernel_steps": 127}
    assert manifest.with_details(OnnxInt8("arm", "int8", 127)) == common | onnx
