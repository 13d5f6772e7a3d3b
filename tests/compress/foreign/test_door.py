"""A wrapped model answers about raw pixels what the model answers about its own."""

import keras
import numpy as np
import pytest
from keras import layers

from compress.foreign.door import (
    check_input,
    graph_statement,
    with_fixed_size,
    with_output_layer,
    wrapped,
)
from compress.graph.classifier import last_activation
from configs.contract import OWN_PIXELS, RANGES, InputContract, Pixels, Statement
from configs.errors import UserError
from small_models import random_images


def padded_net(channels: int = 3) -> keras.Model:
    inputs = keras.Input((16, 16, channels), name="image")
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="stem")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, kernel_initializer="normal", name="head")(x))


def net_with_two_readers() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    readers = [layers.Conv2D(2, size, padding="same")(inputs) for size in (1, 3)]
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()(readers))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("build", [padded_net, net_with_two_readers])
@pytest.mark.parametrize(
    "contract",
    [
        InputContract(pixels=RANGES["-1..1"]),
        InputContract(channels="bgr"),
        InputContract(pixels=RANGES["caffe"], channels="bgr"),
        InputContract(pixels=Pixels((10, 20, 30), (2, 3, 4))),
    ],
    ids=lambda contract: contract.line.partition(", crop")[0],
)
def test_the_wrapped_model_takes_raw_pixels(build, contract: InputContract) -> None:
    model, images = build(), random_images(4, 16)
    door = wrapped(model, contract)
    expected = model.predict_on_batch(contract.apply(images))
    np.testing.assert_allclose(door.predict_on_batch(images), expected, rtol=1e-4, atol=1e-4)


def test_blue_first_costs_no_operation_where_one_kernel_reads_the_image() -> None:
    names = {type(layer).__name__ for layer in wrapped(padded_net(), BGR).layers}
    assert names == {type(layer).__name__ for layer in padded_net().layers}
    names = {type(layer).__name__ for layer in wrapped(net_with_two_readers(), BGR).layers}
    assert "ReverseChannels" in names


BGR = InputContract(channels="bgr")


def test_the_weights_of_the_model_do_not_change() -> None:
    model = padded_net()
    before = model.get_weights()
    wrapped(model, InputContract(pixels=RANGES["0..1"], channels="bgr"))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_like_ours_stays_itself() -> None:
    model = padded_net()
    assert wrapped(model, InputContract(fit="stretch", answers="logits")) is model


def test_a_grey_model_keeps_its_channel() -> None:
    model = padded_net(channels=1)
    assert graph_statement(model).channels == "grey"
    contract = InputContract(pixels=RANGES["0..1"], channels="grey")
    door, images = wrapped(model, contract), random_images(4, 16)[..., :1]
    assert door.input_shape == (None, 16, 16, 1)
    expected = model.predict_on_batch(images / 255)
    np.testing.assert_allclose(door.predict_on_batch(images), expected, atol=1e-5)


def test_channels_first_become_channels_last() -> None:
    inputs = keras.Input((3, 16, 16))
    x = layers.Permute((2, 3, 1))(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert graph_statement(model).layout == "nchw"
    contract = InputContract(layout="nchw", channels="bgr", pixels=RANGES["caffe"])
    door, images = wrapped(model, contract), random_images(4, 16)
    expected = model.predict_on_batch(contract.apply(images).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(door.predict_on_batch(images), expected, rtol=1e-4, atol=1e-4)


def head(*outputs: layers.Layer | str) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(inputs))
    heads = [layers.Dense(3, activation=activation)(x) for activation in outputs]
    return keras.Model(inputs, layers.Average()(heads) if len(heads) > 1 else heads[0])


@pytest.mark.parametrize(
    ("model", "answers"),
    [
        (head("softmax"), "probabilities"),
        (head("sigmoid"), "scores"),
        (head("linear"), None),
        (head("softmax", "softmax"), None),
    ],
)
def test_the_graph_states_what_it_shows(model: keras.Model, answers: str | None) -> None:
    assert graph_statement(model) == Statement(pixels=OWN_PIXELS, answers=answers)


def test_what_the_graph_does_not_show_is_declared(tmp_path) -> None:
    model, images = head("softmax", "softmax"), random_images(4, 8)
    door = wrapped(model, InputContract(answers="probabilities"))
    assert last_activation(door) == "softmax"
    np.testing.assert_allclose(
        door.predict_on_batch(images), model.predict_on_batch(images), atol=1e-6
    )
    door.save(tmp_path / "door.keras")
    assert last_activation(keras.saving.load_model(tmp_path / "door.keras")) == "softmax"


def test_several_outputs_need_a_name() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(inputs)
    outputs = [layers.Dense(3, name="species")(x), layers.Dense(2, name="colour")(x)]
    model = keras.Model(inputs, outputs)
    with pytest.raises(UserError, match=r"(?s)2 outputs: species, colour.*--output-layer species"):
        with_output_layer(model, None)
    assert with_output_layer(model, "colour").output_shape == (None, 2)
    with pytest.raises(UserError, match="has no layer of this name"):
        with_output_layer(model, "size")


@pytest.mark.parametrize(
    ("options", "fit"),
    [
        ({}, "stretch"),
        ({"crop_to_aspect_ratio": True}, "crop"),
        ({"pad_to_aspect_ratio": True}, "pad"),
    ],
)
def test_a_resizing_layer_says_how_photos_of_any_size_are_fitted(options: dict, fit: str) -> None:
    inputs = keras.Input((None, None, 3))
    first = keras.Sequential([layers.Resizing(8, 12, **options), layers.Rescaling(1 / 255)])
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(first(inputs)))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    assert graph_statement(model) == Statement(
        pixels=OWN_PIXELS, fit=fit, interpolation="bilinear", answers="probabilities"
    )
    fixed, images = with_fixed_size(model), random_images(2, 12)[:, :8]
    assert fixed.input_shape == (None, 8, 12, 3)
    # Resizing to the size that an image has changes nothing.
    np.testing.assert_allclose(
        fixed.predict_on_batch(images), model.predict_on_batch(images), atol=1e-6
    )


def test_a_resizing_layer_behind_a_fixed_size_stays() -> None:
    inputs = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Resizing(8, 8)(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert graph_statement(model).fit is None
    assert with_fixed_size(model) is model


def test_a_model_that_loads_and_answers_nothing_is_refused() -> None:
    """Keras loads a layer with options of any kind."""
    check_input(padded_net())
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.BatchNormalization(name="norm")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    config = model.get_config()
    config["layers"][1]["inbound_nodes"][0]["kwargs"]["mask"] = True
    damaged = keras.Model.from_config(config)
    with pytest.raises(UserError, match=r"not answer a black photo \(AttributeError: .*BatchNorm"):
        check_input(damaged)
