"""EfficientNets, and ConvNeXt, in the recipes and methods that walk the graph of a model."""

import ctypes
import gc
from collections import Counter
from collections.abc import Iterator

import keras
import numpy as np
import onnx
import pytest

from compress.int8.calibration import CalibratedModel
from compress.methods.channels import without_channels
from compress.methods.qat import simulate_int8
from compress.methods.tfmot.bridge import to_tf_keras
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from distill.backbones import BACKBONES
from distill.backbones.macs import count_macs
from eval.devices.probe import open_model
from small_models import SIZE, build, logits_of, random_images, settle_deep
from tflite_files import flatbuffer, float_tensors

NAMES = [
    name for name in BACKBONES.names() if name.startswith(("efficientnet_b", "efficientnet_l"))
]
"""docs/backbones.md has the others, which benchmarks/backbone_walk.py takes through every file."""


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """An int8 ONNX file of B7 takes 13 GB by itself, so nothing may be left of the test before."""
    yield
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture(scope="module", params=NAMES)
def backbone(request):
    model = settle_deep(build(request.param, weights=None), random_images(16, SIZE))
    return model, random_images(8, SIZE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_backbone_becomes_an_int8_file_without_floats(backbone, tmp_path):
    model, images = backbone
    path = tmp_path / "int8.tflite"
    RECIPES["tflite.int8"](Conversion(model, lambda: iter(images)), path, output="probabilities")
    graph = flatbuffer(path).subgraphs[0]
    assert float_tensors(path) == {int(graph.inputs[0]), int(graph.outputs[0])}
    np.testing.assert_allclose(open_model(path).predict(images).sum(axis=1), 1, atol=0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_backbone_becomes_an_int8_onnx_file(backbone, tmp_path):
    model, images = backbone
    path = tmp_path / "int8.onnx"
    RECIPES["onnx.int8"](Conversion(model, lambda: iter(images)), path, output="probabilities")
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert kinds["DequantizeLinear"] > kinds["Conv"] > 40
    np.testing.assert_allclose(open_model(path).predict(images).sum(axis=1), 1, atol=0.02)


@pytest.mark.slow
def test_every_backbone_learns_with_rounding_and_with_zeros(backbone):
    model, images = backbone
    logits = logits_of(model, images)
    simulated = simulate_int8(CalibratedModel(model, images))
    assert np.std(logits_of(simulated, images) - logits) > 1e-3 * np.std(logits)
    # Adam's updates have a size of their own: the gradients of a rounded, untrained B7 explode.
    simulated.compile(keras.optimizers.Adam(1e-4), "mse")
    losses = [simulated.train_on_batch(images, np.zeros((8, 3))) for _ in range(2)]
    assert np.isfinite(losses).all()
    tf_logits = to_tf_keras(model)(images, training=False).numpy()
    # Rounding errors of untrained B5 to B7 reach a thousandth; one wrong weight makes a tenth.
    np.testing.assert_allclose(tf_logits, logits, atol=5e-3 * np.abs(logits).max())


@pytest.mark.slow
def test_every_backbone_can_lose_channels(backbone):
    model, images = backbone
    smaller = without_channels(model, images, keep=0.5, multiple_of=8)
    assert 0.45 < count_macs(smaller) / count_macs(model) <= 0.5


@pytest.fixture(scope="module")
def convnext():
    """A ConvNeXt with answers as sure as those of a trained one, and photos of large patches."""
    keras.utils.set_random_seed(1)
    model = keras.applications.ConvNeXtTiny(weights=None, classes=4, input_shape=(64, 64, 3))
    rng = np.random.default_rng(1)
    for weights in model.weights:
        kind = weights.path.split("/")[-1]
        if kind == "kernel":
            weights.assign(rng.normal(0, 1.2 / np.sqrt(_fan_in(weights.shape)), weights.shape))
        elif kind == "gamma":  # of a LayerScale, 1e-6 before any training, or a LayerNormalization
            weights.assign(rng.uniform(0.2, 0.8, weights.shape))
        else:
            weights.assign(weights + rng.normal(0, 0.1, weights.shape))
    patches = rng.uniform(0, 255, (32, 8, 8, 3)).astype("float32")
    return model, np.repeat(np.repeat(patches, 8, axis=1), 8, axis=2)


def _fan_in(shape):
    """How many values a kernel weighs; one of (7, 7, 1, channels) belongs to a grouped layer."""
    return int(np.prod(shape[:-1]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("recipe", "tolerance"),
    [
        ("tflite.float32", 1e-3),
        ("onnx.float32", 1e-3),
        # Two hundred tensors of 8 bits.
        ("tflite.int8", 0.1),
        ("onnx.int8", 0.1),
    ],
)
def test_convnext_crosses_with_gelu_layer_normalization_and_layer_scale(
    convnext, recipe, tolerance, tmp_path
):
    model, images = convnext
    expected = model.predict(images, verbose=0)
    assert expected.max(axis=1).mean() > 0.35, "answers that tell classes apart"
    path = tmp_path / f"convnext.{recipe.split('.')[0]}"
    RECIPES[recipe](Conversion(model, lambda: iter(images)), path, output="probabilities")
    answers = open_model(path).predict(images)
    assert np.abs(answers - expected).max() <= tolerance
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9
