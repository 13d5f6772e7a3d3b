import json
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import copy_model
from compress.methods import METHODS, channel_sizes
from compress.methods.channel_groups import ChannelGroups, total, with_channels
from compress.methods.channel_sizes import sizes_within
from compress.methods.channels import _importances, without_channels
from configs.errors import UserError
from configs.resume import Workspace
from distill.backbones.macs import count_macs
from small_models import build, logits_of, random_images, settle
from support import timed_by_size


def sizes_of(groups):
    return [group.size for group in groups.groups]


def calibration(images):
    return lambda: iter(images)


def test_channels_registers_itself():
    options = METHODS.options("channels")
    assert options["keep"] == 0.5
    with pytest.raises(UserError, match="keep"):
        METHODS.check("channels", {"keep": 1.5})


def test_a_group_has_every_layer_that_makes_or_reads_its_channels(tiny_model):
    groups = ChannelGroups(LayerGraph.of(tiny_model))
    stem, hidden = groups.groups  # the output of `project` enters a sum
    assert (stem.size, hidden.size) == (8, 16)
    assert hidden.exits == ["hidden"]
    assert [call.layer.name for call, _, index in groups.readers() if index == 0] == [
        "gate",
        "project",
    ]


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_expanded_channels_of_every_block_are_removable_and_summed_ones_are_not(name):
    model = build(name, weights=None)
    groups = ChannelGroups(LayerGraph.of(model))
    expanded = {144: 2, 240: 2, 480: 3, 672: 3, 1152: 4}
    assert {size: sizes_of(groups).count(size) for size in expanded} == expanded
    assert sizes_of(groups)[-1] == 1280
    assert not {24, 40, 80, 112, 192} & set(sizes_of(groups))  # blocks add these up


def test_multiply_accumulates_are_those_of_the_model(tiny_model):
    groups = ChannelGroups(LayerGraph.of(tiny_model))
    assert total(groups.macs, sizes_of(groups)) == count_macs(tiny_model)
    smaller = with_channels(tiny_model, groups, [np.arange(3), np.arange(16)])
    assert total(groups.macs, [3, 16]) == count_macs(smaller)


def test_convolutions_whose_channels_stay_count_among_the_multiply_accumulates():
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 1, name="free")(pixels)
    x = layers.Conv2D(8, 3)(x)
    x = layers.Conv2DTranspose(4, 3, strides=2)(layers.SeparableConv2D(8, 3)(x))
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    groups = ChannelGroups(LayerGraph.of(model))
    assert sizes_of(groups) == [8]
    assert total(groups.macs, [8]) == count_macs(model)
    smaller = with_channels(model, groups, [np.arange(5)])
    assert total(groups.macs, [5]) == count_macs(smaller)


def test_numbers_written_are_counted_by_hand(tiny_model):
    groups = ChannelGroups(LayerGraph.of(tiny_model))
    # 8 channels at 8 x 8: stem, swish, depthwise, ReLU and gated; its mean and the gate; projected
    # and added; its mean, the hidden layer and the answers.
    written = 5 * 8 * 64 + 8 + 8 + 2 * 8 * 64 + 8 + 16 + 4
    assert total(groups.writes, sizes_of(groups)) == written


def test_removing_channels_answers_like_not_reading_them(tiny_model, images):
    groups = ChannelGroups(LayerGraph.of(tiny_model))
    remaining = [np.array([0, 2, 3, 7]), np.arange(5, 16)]
    blind = copy_model(tiny_model)
    for call, _, index in groups.readers():
        kernel = blind.get_layer(call.layer.name).kernel
        is_read = np.isin(np.arange(kernel.shape[-2]), remaining[index])
        kernel.assign(kernel * is_read[:, None].astype("float32"))
    smaller = with_channels(tiny_model, groups, remaining)
    assert smaller.get_layer("depthwise").kernel.shape == (3, 3, 4, 1)
    assert smaller.get_layer("gate").kernel.shape == (1, 1, 4, 4)
    np.testing.assert_allclose(logits_of(smaller, images), logits_of(blind, images), atol=1e-5)


def test_removing_constant_channels_changes_no_answer(images):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="first")(layers.Rescaling(1 / 255)(pixels))
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.BatchNormalization()(layers.Conv2D(4, 1, use_bias=False)(x))
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    settle(model, images)
    norm = model.get_layer("norm")
    constant = np.array([0, 1, 1, 0, 1, 0, 1, 1], "float32")
    norm.gamma.assign(norm.gamma * (1 - constant))
    norm.beta.assign(norm.beta + 0.7 * constant)
    smaller = without_channels(model, images, keep=0.5, multiple_of=1)
    assert smaller.get_layer("first").filters == 3
    np.testing.assert_allclose(logits_of(smaller, images), logits_of(model, images), atol=1e-5)
    # Nor in training, where normalizations use the statistics of the batch.
    learning, before = smaller(images, training=True), model(images, training=True)
    np.testing.assert_allclose(learning, before, atol=1e-4)


def test_channels_that_are_split_cannot_be_removed(images):
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, name="whole")(layers.Rescaling(1 / 255)(pixels))
    one, other = keras.ops.split(x, 2, axis=-1)
    x = layers.Concatenate()([one, layers.Conv2D(4, 1)(other)])
    x = layers.Conv2D(8, 1)(layers.ReLU()(layers.Conv2D(12, 1, name="free")(x)))
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    smaller = without_channels(model, images, keep=0.9, multiple_of=1)
    assert smaller.get_layer("whole").filters == 8
    assert smaller.get_layer("free").filters < 12


def test_importance_is_the_fisher_information_of_a_gate_around_the_mean(images):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 64)(pixels))
    x = layers.Dense(5, activation="relu", name="hidden")(x)
    model = keras.Model(pixels, layers.Dense(3, name="answers")(x))
    _, (importances,) = _importances(model, ChannelGroups(LayerGraph.of(model)), images)

    hidden = np.asarray(keras.Model(pixels, x)(images), "float64")
    weights = np.asarray(model.get_layer("answers").kernel, "float64")
    logits = logits_of(model, images).astype("float32")
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(3, p=row / row.sum()) for row in probs.astype("float64")]
    slopes = (np.eye(3)[drawn] - probs) @ weights.T  # of log p(drawn) = logit - log-sum-exp
    expected = 0.5 * np.mean((slopes * (hidden - hidden.mean(axis=0))) ** 2, axis=0)
    np.testing.assert_allclose(importances, expected, rtol=1e-3, atol=1e-9)


def test_the_smaller_model_has_the_share_to_keep_and_is_fine_tuned(efficientnet):
    trainings = []

    def finetune(model, *, epochs, learning_rate):
        trainings.append((count_macs(model), epochs, learning_rate))

    smaller = METHODS["channels"](
        efficientnet,
        calibration=calibration(random_images(4, 32)),
        finetune=finetune,
        remember=lambda find: find(),
        keep=0.6,
        epochs=3,
    )
    assert 0.57 < count_macs(smaller) / count_macs(efficientnet) <= 0.6
    assert trainings == [(count_macs(smaller), 3, 1e-3)]
    changed = [
        (old.filters, new.filters)
        for old, new in zip(efficientnet.layers, smaller.layers, strict=True)
        if isinstance(old, layers.Conv2D) and old.filters != new.filters
    ]
    assert changed
    assert all(new % 16 == 0 for _, new in changed)
    assert {type(layer).__module__.split(".")[0] for layer in smaller.layers} == {"keras"}


def test_the_most_channels_with_the_latency_remain(tiny_model):
    groups = ChannelGroups(LayerGraph.of(tiny_model))
    importances = [np.linspace(1, 2, size) for size in sizes_of(groups)]
    measured = []

    def latency(sizes):  # of the stem alone, which has 8 channels
        measured.append(sizes)
        return 0.2 + 0.1 * sizes[0]

    within = partial(sizes_within, groups=groups, importances=importances, multiple_of=1)
    stem, _ = within(0.75, latency=latency)
    assert stem == 5
    assert len(measured) == len(set(measured)) < 6
    with pytest.raises(UserError, match=r"cannot reach 20% of the latency: 30% remains"):
        within(0.2, latency=latency)


def test_a_latency_that_only_the_smallest_sizes_have_is_reached():
    pixels = keras.Input((8, 8, 3))
    x = layers.Conv2D(1000, 1, name="many")(pixels)
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    sizes = sizes_within(
        0.105,
        ChannelGroups(LayerGraph.of(model)),
        [np.linspace(1, 2, 1000)],
        multiple_of=1,
        latency=lambda sizes: sizes[0] / 1000,
    )
    assert 100 <= sizes[0] <= 105


@pytest.fixture
def wide():
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(256, 3, padding="same", activation="relu", name="wide")(pixels)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="next")(x)
    return keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("recipe", ["tflite.float32", "onnx.int8"])
def test_the_latency_is_that_of_the_recipe_s_file(wide, images, recipe, tmp_path, monkeypatch):
    endings = []

    def time_together(files, **options):
        endings.extend(file.suffix for file in files)
        return timed_by_size(files, **options)

    monkeypatch.setattr(channel_sizes, "time_together", time_together)
    remember = partial(Workspace(tmp_path).once, "sizes")
    smaller = without_channels(wide, images, keep=0.5, of=recipe, multiple_of=8, remember=remember)
    result = json.loads((tmp_path / "sizes.json").read_text())
    # The time here is the size of the file, and a file is nearly all weights of kernels.
    weights = [sum(w.size for w in model.get_weights()) for model in (wide, smaller)]
    expected = weights[1] / weights[0]
    assert result["latency"]["ratio"] == pytest.approx(expected, abs=0.05)
    assert 0.4 < result["latency"]["ratio"] <= 0.5
    assert result["channels"][0] == smaller.get_layer("wide").filters
    assert result["latency"]["recipe"] == recipe
    assert result["latency"]["machine"]["cpu"]
    assert set(endings) == {f".{recipe.partition('.')[0]}"}


@pytest.mark.slow
def test_a_share_of_the_latency_is_measured_on_this_machine(wide, images, tmp_path):
    remember = partial(Workspace(tmp_path).once, "sizes")
    options = {"keep": 0.6, "of": "tflite.int8", "multiple_of": 8, "remember": remember}
    smaller = without_channels(wide, images, **options)
    latency = json.loads((tmp_path / "sizes.json").read_text())["latency"]
    assert latency["ratio"] <= 0.6
    assert latency["num_threads"] == 1
    assert count_macs(smaller) < count_macs(wide)


def test_a_misspelt_recipe_is_refused():
    with pytest.raises(UserError, match=r"Did you mean tflite\.int8"):
        METHODS.check("channels", {"of": "tflite.int"})


def test_the_refusal_of_a_share_says_which_share_can_be_reached(tiny_model, images):
    with pytest.raises(
        UserError, match=r"cannot reach 1% of the multiply-accumulates: 100% remains"
    ):
        without_channels(tiny_model, images, keep=0.01, multiple_of=8)


def test_a_model_without_removable_channels_is_refused(images):
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same")(pixels)
    x = layers.Concatenate()([x, pixels])
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(UserError, match="no channels that can be removed"):
        without_channels(model, images, keep=0.5, multiple_of=1)


def test_channels_of_a_layer_that_is_used_twice_cannot_be_removed(images):
    pixels = keras.Input((16, 16, 3))
    twice = layers.Conv2D(4, 3, padding="same", name="twice")
    x = twice(layers.Conv2D(4, 1)(pixels))
    x = layers.Conv2D(6, 1, name="free")(twice(x))
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    assert sizes_of(ChannelGroups(LayerGraph.of(model))) == [6]


def test_channels_behind_a_softmax_cannot_be_removed():
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(6, 1, name="free")(pixels)
    weights = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([layers.Conv2D(4, 1)(x), layers.Reshape((1, 1, 4))(weights)])
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    assert sizes_of(ChannelGroups(LayerGraph.of(model))) == [6]
