"""Tiny model files: the answer is the mean colour of the image times a fixed matrix."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from eval.serve.runtimes import PACKAGES
from support import AXE

# One class more than colours: class 3 is what grey images are.
MATRIX = np.array([[4, 0, 0, 1], [0, 4, 0, 1], [0, 0, 4, 1]], "float32") / 255


def write_onnx(path: Path, shape: list[Any], *, axes: tuple[int, int] = (1, 2)) -> Path:
    """softmax(mean over `axes` @ MATRIX), with an input of `shape` called image."""
    constants = [
        numpy_helper.from_array(np.array(axes, "int64"), "axes"),
        numpy_helper.from_array(MATRIX, "matrix"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [shape[0], 4])
    graph = helper.make_graph(nodes, "colours", [image], [answer], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file with an input of another shape."""
    return lambda shape, **options: write_onnx(tmp_path / "other.onnx", shape, **options)


@pytest.fixture(scope="session")
def expected_probs(colours: np.ndarray) -> np.ndarray:
    """What the files answer to `colours`, in numpy."""
    exp = np.exp(colours.astype("float32").mean(axis=(1, 2)) @ MATRIX)
    return exp / exp.sum(axis=1, keepdims=True)


@pytest.fixture(scope="session")
def colours() -> np.ndarray:
    """Three images, red, green and blue: classes 0, 1 and 2."""
    images = np.zeros((3, 8, 8, 3), "uint8")
    images[[0, 1, 2], :, :, [0, 1, 2]] = 250
    return images


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("onnx") / "colours.onnx", [1, 8, 8, 3])


@pytest.fixture(scope="session")
def tflite_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same classifier as TFLite: "float32", "int8", "uint8" (both edges), dynamic "batch".

    "int8-inside" takes and returns floats, as the files of our recipe do.
    """
    import tensorflow as tf

    class Colours(tf.Module):
        @tf.function
        def __call__(self, image: Any) -> Any:
            return tf.nn.softmax(tf.reduce_mean(image, axis=[1, 2]) @ MATRIX)

    folder, module = tmp_path_factory.mktemp("tflite"), Colours()
    random = np.random.default_rng(1).uniform(0, 255, (16, 1, 8, 8, 3)).astype("float32")
    random[0], random[1] = 0, 255  # so that the input's range is all of 0..255
    files = {}
    for name in ("float32", "int8", "uint8", "int8-inside", "batch"):
        batch = None if name == "batch" else 1
        spec = tf.TensorSpec((batch, 8, 8, 3), tf.float32)
        function = module.__call__.get_concrete_function(spec)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        if "int8" in name:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image] for image in random)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if name in ("int8", "uint8"):
            converter.inference_input_type = converter.inference_output_type = getattr(tf, name)
        files[name] = folder / f"colours-{name}.tflite"
        files[name].write_bytes(converter.convert())
    return files


@pytest.fixture(scope="session")
def npm_archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtimes and axe-core, as npm packs them."""
    folder = tmp_path_factory.mktemp("npm")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not here")
    words = [package.words for package in PACKAGES]
    result = subprocess.run(
        [npm, "pack", "--silent", *words, AXE], cwd=folder, capture_output=True, text=True
    )
    if result.returncode:
        pytest.skip(f"npm does not reach its registry: {result.stderr[-200:]}")
    return folder
