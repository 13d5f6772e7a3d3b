"""`keras_file`: a Keras model of the user's, with a new classifier and for raw pixels."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from configs.errors import UserError
from distill.backbones import BACKBONES
from distill.backbones.weights import foreign_file
from small_models import logits_of

SIZE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype("float32")


@pytest.fixture
def in_this_process(monkeypatch):
    """The converter runs here, not in a child process, which takes seconds to start."""
    from compress.foreign.load import convert as convert_here
    from distill.backbones import keras_file

    def convert(source, target, *, of):
        try:
            convert_here(source, target)
        except UserError as error:
            raise UserError(f"{error}{foreign_file.ADVICE[of]}") from None

    monkeypatch.setattr(keras_file, "convert", convert)


def build(path, size=SIZE, **options):
    return BACKBONES["keras_file"](image_size=size, num_classes=5, weights=str(path), **options)


def features_of(model):
    return keras.Model(model.input, model.get_layer("logits").input)


def network(*first, shape=(SIZE, SIZE, 3), last=3):
    return keras.Sequential(
        [
            keras.Input(shape),
            *first,
            layers.Conv2D(4, 3, padding="same", name="kernel"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(last, activation="softmax"),
        ]
    )


def until(model, name):
    return keras.Model(model.inputs[0], model.get_layer(name).output)


def test_a_tutorial_model_gives_its_features_to_a_new_classifier(tmp_path):
    """An augmenting first layer, a nested network, and a classifier: in a child process."""
    base = network().layers
    nested = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *base[:2]], name="base")
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.RandomFlip(),
            layers.Rescaling(1 / 255),
            nested,
            layers.Dropout(0.5, name="dropout"),
            layers.Dense(3, activation="softmax", name="logits"),
        ]
    )
    model.save(tmp_path / "mine.keras")
    ours = build(tmp_path / "mine.keras")
    assert ours.output.shape == (None, 5)
    assert [layer.name for layer in ours.layers][-2:] == ["dropout", "logits"]
    assert not any(isinstance(layer, (keras.Model, layers.RandomFlip)) for layer in ours.layers)
    np.testing.assert_allclose(
        logits_of(features_of(ours), PIXELS), logits_of(nested, PIXELS / 255), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PIXELS),
        ({"pixels": "0..1"}, PIXELS / 255),
        ({"pixels": "-1..1"}, PIXELS / 127.5 - 1),
        ({"channels": "bgr"}, PIXELS[..., ::-1]),
        ({"pixels": "caffe"}, PIXELS[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")),
    ],
)
def test_the_contract_of_the_file_applies(in_this_process, tmp_path, options, expected):
    model = network()
    model.save(tmp_path / "mine.keras")
    ours = build(tmp_path / "mine.keras", **options)
    # Another order of sums in float32, of numbers up to 255.
    np.testing.assert_allclose(
        logits_of(features_of(ours), PIXELS),
        logits_of(until(model, "mean"), expected),
        atol=1e-3,
    )


def test_a_grey_network_gets_the_luma_of_the_photo(in_this_process, tmp_path):
    model = network(layers.Rescaling(1 / 127.5, offset=-1), shape=(SIZE, SIZE, 1))
    model.save(tmp_path / "mine.keras")
    ours = build(tmp_path / "mine.keras", channels="grey")
    grey = PIXELS @ np.array([[0.299], [0.587], [0.114]], "float32")
    np.testing.assert_allclose(
        logits_of(features_of(ours), PIXELS), logits_of(until(model, "mean"), grey), atol=1e-5
    )


def test_another_image_size_and_another_layer(in_this_process, tmp_path):
    model = network(layers.Rescaling(1 / 255))
    model.save(tmp_path / "mine.keras")
    ours = build(tmp_path / "mine.keras", size=40, features="kernel")
    assert ours.input.shape == (None, 40, 40, 3)
    pixels = np.repeat(PIXELS, 3, axis=1).repeat(3, axis=2)[:, :40, :40]
    kernel = model.get_layer("kernel")
    expected = keras.ops.convert_to_numpy(kernel(pixels / 255)).mean(axis=(1, 2))
    np.testing.assert_allclose(logits_of(features_of(ours), pixels), expected, atol=1e-5)


def test_a_network_without_a_classifier_keeps_its_last_layer(in_this_process, tmp_path):
    model = until(network(), "kernel")
    model.save(tmp_path / "mine.keras")
    assert build(tmp_path / "mine.keras").get_layer("logits").kernel.shape == (4, 5)


def refusal(tmp_path, model, **options):
    """What the user reads."""
    model.save(tmp_path / "mine.keras")
    with pytest.raises(UserError) as error:
        build(tmp_path / "mine.keras", **options)
    return str(error.value)


def test_what_cannot_be_a_backbone_is_refused(in_this_process, tmp_path):
    grey = network(shape=(SIZE, SIZE, 1))
    assert "with one channel say channels: grey" in refusal(tmp_path, grey)
    assert re.search("no layer of this name.*mean", refusal(tmp_path, network(), features="nope"))
    flatten = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), layers.Flatten(), layers.Dense(4), layers.Dense(3)]
    )
    assert "made for 16 x 16. Set image_size to that" in refusal(tmp_path, flatten, size=32)
    says = refusal(tmp_path, flatten, channels="bgr")
    assert re.search("flatten.* before any convolution", says)
    code = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), layers.Lambda(lambda x: x / 255), *network().layers]
    )
    says = refusal(tmp_path, code)
    assert re.search("(?s)Python code inside: the Lambda layer.*without Lambda layers", says)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Name the file of a Keras model"),
        ({"weights": "mine.pth"}, "Expected a whole Keras model"),
        ({"weights": "mine.keras", "pixels": "caffe", "channels": "rgb"}, "leave channels out"),
    ],
)
def test_a_config_is_checked_before_the_file_is_opened(options, message):
    with pytest.raises(UserError, match=message):
        BACKBONES.check("keras_file", options)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"'nowhere\.keras' do not exist"):
        build("nowhere.keras")
