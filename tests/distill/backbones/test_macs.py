"""MACs against values worked by hand: places times the numbers of the kernel."""

import keras
import pytest
from keras import layers

from distill.backbones import BACKBONES
from distill.backbones.macs import count_macs


def model_of(*last_layers, input_shape=(8, 8, 4)) -> keras.Model:
    return keras.Sequential([keras.Input(input_shape), *last_layers])


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 4 x 4 places, 3 x 3 x 4 x 6 numbers
        (layers.Conv2D(6, 3, strides=2, padding="same"), 16 * 216),
        # 6 x 6 places, 3 x 3 x (4 / 2) x 6 numbers: a filter reads one group
        (layers.Conv2D(6, 3, groups=2), 36 * 108),
        # 4 x 4 places (a dilated kernel covers 5 x 5 pixels), the same numbers
        (layers.Conv2D(6, 3, dilation_rate=2), 16 * 216),
        # 6 x 6 places, 3 x 3 x 4 x 2 numbers
        (layers.DepthwiseConv2D(3, depth_multiplier=2), 36 * 72),
        # 4 x 4 places; depthwise 3 x 3 x 4 x 2 numbers, pointwise 8 x 5
        (layers.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2), 16 * 112),
        # 8 x 8 places of the input, 3 x 3 x 6 x 4 numbers
        (layers.Conv2DTranspose(6, 3, strides=2, padding="same"), 64 * 216),
        # a dense layer on a map works at each of its 8 x 8 places
        (layers.Dense(5), 64 * 20),
        (layers.BatchNormalization(), 0),
        (layers.LayerNormalization(axis=[1, 2, 3]), 0),
        (layers.PReLU(), 0),
        (layers.GlobalAveragePooling2D(), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else str(value),
)
def test_a_layer_costs_what_is_worked_by_hand(layer: keras.Layer, expected: int) -> None:
    assert count_macs(model_of(layer)) == expected


def test_layers_of_one_dimension_are_counted() -> None:
    # 8 places x 3 * 4 * 6, then 8 places x (3 * 6 + 6 * 5)
    last_layers = [
        layers.Conv1D(6, 3, padding="same"),
        layers.SeparableConv1D(5, 3, padding="same"),
    ]
    assert count_macs(model_of(*last_layers, input_shape=(8, 4))) == 8 * 72 + 8 * 48


def test_channels_first_has_its_places_behind_the_channels() -> None:
    layer = layers.DepthwiseConv2D(3, padding="same", data_format="channels_first")
    # 4 channels of 8 x 16 places, 3 x 3 x 4 numbers
    assert count_macs(model_of(layer, input_shape=(4, 8, 16))) == 128 * 36


def test_nested_models_count_at_the_size_at_which_they_are_called() -> None:
    inner = model_of(layers.Conv2D(4, 3, padding="same"), input_shape=(None, None, 4))
    image = keras.Input((8, 8, 4))
    outer = keras.Model(image, layers.Flatten()(inner(inner(layers.MaxPooling2D()(image)))))
    # Two calls at 4 x 4 places, 3 x 3 x 4 x 4 numbers
    assert count_macs(outer) == 2 * 16 * 144


def test_a_layer_that_is_called_twice_costs_twice() -> None:
    image, shared = keras.Input((8, 8, 4)), layers.Conv2D(4, 1)
    once = keras.Model(image, shared(image))
    twice = keras.Model(image, shared(layers.MaxPooling2D()(shared(image))))
    assert count_macs(once) == 64 * 16
    assert count_macs(twice) == 64 * 16 + 16 * 16


def test_counting_leaves_the_graph_as_it_is() -> None:
    model = model_of(layers.Conv2D(4, 1), layers.Flatten(), layers.Dense(2))
    outputs = [id(layer.output) for layer in model.layers]
    count_macs(model)
    assert [id(layer.output) for layer in model.layers] == outputs
    assert {len(layer._inbound_nodes) for layer in model.layers} == {1}


@keras.saving.register_keras_serializable("test_macs")
class Mystery(keras.Layer):
    def call(self, x):
        return x


def matmul_model() -> keras.Model:
    image = keras.Input((8, 4, 4))
    return keras.Model(image, keras.ops.matmul(image, image))


@pytest.mark.parametrize(
    "build",
    [
        lambda: model_of(layers.Reshape((64, 4)), layers.LSTM(3)),
        lambda: model_of(layers.EinsumDense("bhwc,cd->bhwd", output_shape=(8, 8, 3))),
        lambda: model_of(layers.TimeDistributed(layers.Dense(3))),
        lambda: model_of(Mystery()),
        lambda: model_of(layers.Conv2D(4, 1), input_shape=(None, None, 3)),
        matmul_model,
    ],
    ids=["recurrent", "einsum", "wrapper", "custom", "no fixed size", "matmul"],
)
def test_what_cannot_be_counted_is_no_number(build) -> None:
    assert count_macs(build()) is None


def test_attention_is_no_number() -> None:
    image = keras.Input((8, 8, 4))
    x = layers.Reshape((64, 4))(image)
    assert count_macs(keras.Model(image, layers.MultiHeadAttention(2, 2)(x, x))) is None
    assert count_macs(keras.Model(image, layers.Attention()([x, x]))) is None


def test_b0_costs_what_is_published() -> None:
    model = BACKBONES["efficientnet_b0"](image_size=224, num_classes=1000, weights=None)
    # 0.39 G in Tan and Le 2019, table 2.
    assert count_macs(model) / 1e9 == pytest.approx(0.39, abs=0.005)
