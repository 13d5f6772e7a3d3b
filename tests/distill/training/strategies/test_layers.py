"""Which layers are near the answers, in graphs of several shapes."""

import keras
import pytest
from keras import layers

from configs.errors import UserError
from distill.backbones import HEAD
from distill.training.strategies.layers import (
    ALL,
    HEAD_ONLY,
    Top,
    rate_factors,
    stages_of,
    train_only,
)
from small_models import build


def block(x, name: str, strides: int, *, branch: bool):
    """A convolution, or two of them in parallel, as in a residual network."""
    y = layers.Conv2D(4, 3, strides=strides, padding="same", name=f"{name}_conv")(x)
    y = layers.BatchNormalization(name=f"{name}_bn")(y)
    if branch:
        shortcut = layers.Conv2D(4, 1, strides=strides, name=f"{name}_shortcut")(x)
        y = layers.add([y, shortcut], name=f"{name}_add")
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(y)
    return layers.multiply([y, layers.Dense(4, name=f"{name}_gate")(gate)], name=f"{name}_out")


def network(*, nested: bool, branch: bool = True) -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(image)
    inner = keras.Input((32, 32, 3))
    y = inner if nested else x
    for number, strides in enumerate([2, 1, 2, 2, 1]):
        y = block(y, f"b{number}", strides, branch=branch)
    if nested:
        y = keras.Model(inner, y, name="backbone")(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D(name="avg_pool")(y))
    return keras.Model(image, layers.Dense(2, name=HEAD)(x))


def trainable(model: keras.Model) -> set[str]:
    return {variable.path.split("/")[-2] for variable in model.trainable_variables}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("branch", [False, True])
def test_the_last_stages_are_those_behind_the_last_steps_down(nested: bool, branch: bool) -> None:
    model = network(nested=nested, branch=branch)
    train_only(model, Top(stages=1), freeze_batchnorm=False)
    assert {name[:2] for name in trainable(model) - {HEAD}} == {"b3", "b4"}
    train_only(model, Top(stages=2), freeze_batchnorm=True)
    assert {name[:2] for name in trainable(model) - {HEAD}} == {"b2", "b3", "b4"}
    assert not any(name.endswith("_bn") for name in trainable(model))
    train_only(model, HEAD_ONLY, freeze_batchnorm=False)
    assert trainable(model) == {HEAD}
    train_only(model, ALL, freeze_batchnorm=False)
    assert len(model.trainable_variables) == len(model.weights) - 2 * 5  # moving statistics


@pytest.mark.parametrize("nested", [False, True])
def test_a_share_counts_the_layers_with_weights(nested: bool) -> None:
    model = network(nested=nested, branch=False)  # 15 layers with weights before the head
    train_only(model, Top(share=0.2), freeze_batchnorm=False)
    assert trainable(model) == {"b4_conv", "b4_bn", "b4_gate", HEAD}
    train_only(model, Top(from_layer="b3_bn"), freeze_batchnorm=False)
    assert trainable(model) == {"b3_bn", "b3_gate", "b4_conv", "b4_bn", "b4_gate", HEAD}


def test_a_layer_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no layer 'b3_cnv'. Did you mean b3_conv\?"):
        train_only(network(nested=True), Top(from_layer="b3_cnv"), freeze_batchnorm=False)


def test_rates_fall_by_stage() -> None:
    model = network(nested=True)
    train_only(model, ALL, freeze_batchnorm=False)
    factors = {path.split("/")[-2]: rate for path, rate in rate_factors(model, 0.5).items()}
    assert HEAD not in factors
    assert factors["b4_conv"] == factors["b3_shortcut"] == factors["b3_gate"] == 0.5
    assert factors["b2_conv"] == 0.25
    assert factors["b0_conv"] == factors["b1_bn"] == 0.125
    assert rate_factors(model, 1.0) == {}


def test_the_stages_of_real_networks() -> None:
    model = build("efficientnet_b0", weights=None)
    stages = stages_of(model)
    at = {layer.name: stages[id(layer)] for layer in model.layers}
    names = ["stem_conv", "block2a_dwconv", "block3a_dwconv", "block4a_dwconv", "block6a_dwconv"]
    assert [at[name] for name in names] == [1, 2, 3, 4, 5]
    assert at["block6a_expand_conv"] == 4
    assert at["block6a_se_reduce"] == at["top_conv"] == at[HEAD] == 5


def test_the_last_pooling_of_vgg_is_no_stage() -> None:
    image = keras.Input((32, 32, 3))
    features = keras.applications.VGG16(include_top=False, weights=None, input_tensor=image)
    x = layers.GlobalAveragePooling2D()(features.output)
    model = keras.Model(image, layers.Dense(2, name=HEAD)(x))
    train_only(model, Top(stages=1), freeze_batchnorm=False)
    assert trainable(model) == {"block5_conv1", "block5_conv2", "block5_conv3", HEAD}
    # "The first 15 layers frozen" of the tutorials
    frozen = {layer.name for layer in model.layers[:15] if layer.weights}
    assert not frozen & trainable(model)
