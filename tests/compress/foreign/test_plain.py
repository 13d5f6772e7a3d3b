"""Models as they are trained become plain float32 models with the same answers."""

import logging
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from compress.foreign.inert import INERT, is_inert
from compress.foreign.load import load_foreign
from compress.foreign.plain import as_plain
from compress.graph.replay import named_layers
from configs.errors import UserError
from small_models import kinds, logits_of, random_images

IMAGES = random_images(4, 16)
NEEDS = {
    "AlphaDropout": 0.1, "GaussianDropout": 0.1, "GaussianNoise": 0.1, "RandomBrightness": 0.2,
    "RandomColorDegeneration": 0.5, "RandomContrast": 0.2, "RandomHue": 0.2,
    "RandomPosterization": 4, "RandomRotation": 0.2, "RandomSaturation": 0.3,
    "RandomSharpness": 0.3, "RandomTranslation": (0.2, 0.2), "RandomZoom": 0.2,
}  # fmt: skip
"""The arguments of layers that need one."""


def tail(x):
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    return layers.Dense(3, name="head")(layers.GlobalAveragePooling2D(name="pool")(x))


@pytest.mark.parametrize("name", sorted(INERT - {"RandomHeight", "RandomWidth"}))
def test_every_layer_that_is_removed_returns_what_it_reads(name: str) -> None:
    arguments = NEEDS.get(name, ())
    layer = getattr(layers, name)(*(arguments if isinstance(arguments, tuple) else [arguments]))
    assert is_inert(layer)
    np.testing.assert_array_equal(layer(IMAGES, training=False), IMAGES)


def test_layers_that_crop_or_scale_stay() -> None:
    for layer in (layers.RandomCrop(8, 8), layers.CenterCrop(8, 8), layers.Rescaling(1 / 255)):
        assert not is_inert(layer)


@pytest.mark.parametrize("container", ["functional", "sequential", "nested", "deep"])
def test_augmentation_is_removed_wherever_it_is(container: str) -> None:
    keras.utils.set_random_seed(1)
    augmentation = [layers.RandomFlip(), layers.RandomRotation(0.1), layers.GaussianNoise(0.1)]
    inputs = keras.Input((16, 16, 3), name="photo")
    if container == "functional":
        x = inputs
        for layer in augmentation:
            x = layer(x)
        model = keras.Model(inputs, tail(x))
    elif container == "sequential":
        model = keras.Sequential(
            [inputs, keras.Sequential(augmentation, name="data_augmentation"),
             layers.Conv2D(4, 3, name="conv"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
        )  # fmt: skip
    elif container == "nested":
        x = keras.Sequential(augmentation, name="data_augmentation")(inputs)
        model = keras.Model(inputs, tail(x))
    else:  # beside other layers in a nested model, which stays
        inner_inputs = keras.Input((16, 16, 3))
        inner = keras.Model(
            inner_inputs, layers.Conv2D(3, 1)(augmentation[0](inner_inputs)), name="inner"
        )
        model = keras.Model(inputs, tail(inner(inputs)))
    plain = as_plain(model, "net.keras")
    names = {type(layer).__name__ for _, layer in named_layers(plain)}
    assert not names & INERT
    assert ("Functional" in kinds(plain)) == (container == "deep")
    np.testing.assert_array_equal(logits_of(plain, IMAGES), logits_of(model, IMAGES))


def test_a_model_that_needs_nothing_stays_the_same_object() -> None:
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, tail(inputs))
    assert as_plain(model, "net.keras") is model


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_half_precision_becomes_float32(
    policy: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("potstill"), "propagate", True)
    caplog.set_level("INFO")
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    try:
        inner = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(3, 1, name="conv")])
        inputs = keras.Input((16, 16, 3))
        x = layers.BatchNormalization()(inner(inputs / 255.0))
        x = layers.TimeDistributed(layers.Conv2D(3, 1, name="inside"))(x[:, None])[:, 0]
        model = keras.Model(inputs, tail(x))
    finally:
        keras.config.set_dtype_policy("float32")
    plain = as_plain(model, "net.keras")
    assert {layer.compute_dtype for _, layer in named_layers(plain)} == {"float32"}
    assert {layer.variable_dtype for _, layer in named_layers(plain)} == {"float32"}
    for (_, old), (_, new) in zip(named_layers(model), named_layers(plain), strict=True):
        for expected, array in zip(old.get_weights(), new.get_weights(), strict=True):
            np.testing.assert_array_equal(array, np.asarray(expected, "float32"))
    # bfloat16 has 8 bits, so a sum of a few dozen products may be off by some percent.
    np.testing.assert_allclose(logits_of(plain, IMAGES), logits_of(model, IMAGES), atol=0.05)
    assert f"compute in {policy.removeprefix('mixed_')} now compute in float32" in caplog.text


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_lora_is_merged(tmp_path: Path, ending: str) -> None:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, tail(inputs / 255.0))
    before = logits_of(model, IMAGES)
    for name, options in {"conv": {}, "head": {"lora_alpha": 6}}.items():
        layer = model.get_layer(name)
        layer.enable_lora(2, **options)
        layer.lora_kernel_b.assign(9 * np.ones(layer.lora_kernel_b.shape))
    expected = logits_of(model, IMAGES)
    assert np.abs(expected - before).max() > 0.1
    model.save(tmp_path / f"net{ending}")
    plain = load_foreign(tmp_path / f"net{ending}")
    assert [len(plain.get_layer(name).weights) for name in ("conv", "head")] == [2, 2]
    np.testing.assert_allclose(logits_of(plain, IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_what_keras_quantized_to_int8_becomes_float_again() -> None:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, tail(inputs / 255.0))
    kernel = np.asarray(model.get_layer("head").kernel)
    model.quantize("int8", filters=lambda layer: isinstance(layer, layers.Dense))
    plain = as_plain(model, "net.keras")
    rounded = np.asarray(plain.get_layer("head").kernel)
    # 127 steps for each output channel: an error of half a step at most.
    assert (np.abs(rounded - kernel) <= np.abs(kernel).max(axis=0) / 127 / 2 + 1e-6).all()
    assert np.abs(rounded - kernel).max() > 0
    # The quantized layer rounds what it reads, too: 1/127 of the largest of four inputs.
    np.testing.assert_allclose(logits_of(plain, IMAGES), logits_of(model, IMAGES), atol=0.01)


def test_other_quantized_layers_are_refused_by_name() -> None:
    inputs = keras.Input((16, 16, 3))
    x = layers.EinsumDense("bijc,cd->bijd", (None, None, 4), name="mix")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    model.quantize("int8")
    with pytest.raises(UserError, match=r"quantized its layer 'mix' \(EinsumDense\)"):
        as_plain(model, "net.keras")
