import keras
import numpy as np
import pytest
import yaml
from keras import layers

from compress.graph.kernels import round_kernel
from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import copy_model
from compress.int8.equalization.equalize import (
    WORTH,
    Equalize,
    _fewest,
    _ranges,
    _rewritten,
    _scale,
)
from compress.int8.equalization.equalize import equalized as equalize
from compress.int8.equalization.spans import divide_outputs, find_spans
from compress.methods.cluster import clustered
from compress.methods.structure import inner_kernels
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from configs.errors import UserError
from eval.devices.probe import open_model
from small_models import random_images, settle


def equalized(model: keras.Model, images: np.ndarray, **options) -> keras.Model:
    return equalize(model, images, **options).model


def with_all_rewritten(model: keras.Model, images: np.ndarray) -> keras.Model:
    graph = LayerGraph.of(model)
    spans = find_spans(graph)
    scales = [_scale(ranges) for ranges in _ranges(graph, spans, images)]
    return _rewritten(model, zip(spans, scales, strict=True))


def spread_out(model: keras.Model) -> keras.Model:
    """Give the channels before each swish ranges that differ up to a hundredfold."""
    rng = np.random.default_rng(0)
    for span in find_spans(LayerGraph.of(model)):
        if span.activations:
            (source,) = span.sources
            divide_outputs(source.layer, np.exp(rng.uniform(-2.3, 2.3, source.layer.gamma.shape)))
    return model


@pytest.fixture(scope="module")
def uneven() -> keras.Model:
    """EfficientNetB0 at 32 px, whose channels have different ranges, as in a trained one."""
    keras.utils.set_random_seed(1)
    features = keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), include_top=False, pooling="avg"
    )
    model = keras.Model(features.inputs[0], layers.Dense(5, name="logits")(features.output))
    images = random_images(32, 32)
    settle(spread_out(settle(model, images)), images)
    return model


@pytest.fixture(scope="module")
def rewritten(uneven: keras.Model) -> dict[str, keras.Model]:
    """The equalized model ("fewest"), and the model with every swish rewritten ("all")."""
    images = random_images(16, 32)
    before = [array.copy() for array in uneven.get_weights()]
    made = {"fewest": equalized(uneven, images), "all": with_all_rewritten(uneven, images)}
    for array, old in zip(uneven.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, old)  # `equalize` does not change its model
    return made


@pytest.mark.parametrize("which", ["fewest", "all"])
def test_an_equalized_model_computes_the_same(uneven, rewritten, which: str) -> None:
    images = random_images(32, 32)
    result = rewritten[which].predict_on_batch(images)
    expected = uneven.predict_on_batch(images)
    # float32 rounding through 33 swishes
    assert np.abs(result - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1)


def test_fewer_than_all_swishes_are_rewritten(rewritten) -> None:
    def count(model: keras.Model) -> int:
        return sum(layer.name.endswith("_product") for layer in model.layers)

    assert 0 < count(rewritten["fewest"]) < count(rewritten["all"]) == 33


def test_all_33_swishes_of_b0_outside_its_gates_can_be_rewritten(uneven: keras.Model) -> None:
    spans = find_spans(LayerGraph.of(uneven))
    assert sum(bool(span.activations) for span in spans) == 33


def test_the_fewest_rewrites_with_the_share_of_the_gain_are_done() -> None:
    gains = np.array([2.0, 10.0, 3.0, -1.0])  # 15 nats in all
    assert _fewest(gains, 0.6) == [1]
    assert _fewest(gains, 0.8) == [1, 2]
    assert _fewest(gains, 1.0) == [1, 2, 0]
    assert _fewest(-gains[:3], 1.0) == []
    # Together they have the share, but only one is worth an operation.
    assert _fewest(np.array([0.9, 1.0, 0.9]) * WORTH, 1.0) == [1]


def test_the_one_uneven_swish_is_rewritten() -> None:
    keras.utils.set_random_seed(3)
    images = random_images(32, 16)
    pixels = x = keras.Input((16, 16, 3), name="image")
    x = layers.Rescaling(1 / 255)(x)
    for name in "abc":
        x = layers.BatchNormalization(name=f"{name}_bn")(layers.Conv2D(8, 3)(x))
        x = layers.DepthwiseConv2D(3, use_bias=False)(layers.Activation("silu", name=name)(x))
        x = layers.BatchNormalization()(x)
    model = settle(keras.Model(pixels, logits(x)), images)
    factors = np.geomspace(1, 300, 8).astype("float32")
    divide_outputs(model.get_layer("b_bn"), 1 / factors)
    result = equalized(settle(model, images), images, gain=0.8)
    assert [layer.name for layer in result.layers if layer.name.endswith("_scale")] == ["b_scale"]


def test_a_rewrite_without_an_additional_operation_is_done(caplog) -> None:
    keras.utils.set_random_seed(4)
    images = random_images(16, 8)
    model = build(lambda x: logits(layers.BatchNormalization()(layers.DepthwiseConv2D(3)(
        layers.ReLU(name="act")(x)
    ))))  # fmt: skip
    norm = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    divide_outputs(norm, np.geomspace(1, 30, 4))
    settle(model, images)

    def ranges(model: keras.Model) -> np.ndarray:
        act = keras.Model(model.inputs[0], model.get_layer("act").output)(images)
        return np.asarray(act).max(axis=(0, 1, 2))

    with caplog.at_level("INFO", "potstill"):
        result = equalized(model, images)
    assert [layer.name for layer in result.layers] == [layer.name for layer in model.layers]
    assert ranges(model).max() > 5 * ranges(model).min()
    # 1, except for the rounding of float32
    assert ranges(result).max() < 1.001 * ranges(result).min()
    assert "(for free, " in caplog.text


def test_a_model_whose_rewrites_save_nothing_is_returned_unchanged(caplog) -> None:
    model = build(lambda x: logits(
        layers.DepthwiseConv2D(3, activation="tanh")(layers.Activation("silu")(x))
    ))  # fmt: skip
    conv = model.get_layer("conv")
    conv.kernel.assign(np.ones(conv.kernel.shape))  # all channels have one range
    with caplog.at_level("INFO", "potstill"):
        assert equalized(model, random_images(4, 8)) is model
    assert "equalized 0 of 1 places: none is worth it" in caplog.text


def test_channels_have_similar_ranges_afterwards(rewritten) -> None:
    images = random_images(16, 32)  # the calibration images
    result = rewritten["all"]

    def spread(x: np.ndarray, scale: np.ndarray) -> float:
        # A swish is 0 below -8, so what lies there needs no range.
        ranges = np.abs(np.maximum(x, -8)).max(axis=(0, 1, 2)) / scale
        return float(ranges.max() / np.exp(np.log(ranges).mean()))

    for name in ("stem", "block3a", "top"):
        scaled = result.get_layer(f"{name}_activation_scale")
        x = keras.Model(result.inputs, scaled.output).predict_on_batch(images)
        assert spread(x, np.ones(x.shape[-1])) > 2
        # 1, except for channels below a 64th of the largest
        assert spread(x, np.array(scaled.scale)) < 1.3


def test_an_equalized_model_survives_saving(rewritten, tmp_path) -> None:
    images = random_images(4, 32)
    result = rewritten["fewest"]
    result.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(
        again.predict_on_batch(images), result.predict_on_batch(images), atol=1e-5
    )


@pytest.mark.parametrize("recipe", ["tflite.int8", "onnx.int8"])
def test_int8_of_an_equalized_model_is_closer_to_its_float_model(recipe, tmp_path) -> None:
    # One uneven swish before a depthwise convolution. The normalization behind it makes all
    # channels count the same again, so the answers depend on what int8 loses in the small ones.
    images = random_images(32, 16)
    keras.utils.set_random_seed(2)
    pixels = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3)(layers.Rescaling(1 / 255)(pixels))
    x = layers.Activation("silu", name="swish")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, use_bias=False)(x)
    x = layers.Conv2D(16, 1, activation="relu")(layers.BatchNormalization()(x))
    model = settle(keras.Model(pixels, logits(x)), images)
    settle(spread_out(model), images)
    expected = keras.ops.softmax(model.predict_on_batch(images)).numpy()

    def error(choice: Equalize) -> float:
        path = tmp_path / f"{choice}.{recipe.partition('.')[0]}"
        facts = RECIPES[recipe](
            Conversion(model, lambda: iter(images)),
            path,
            output="probabilities",
            ranges="minmax",  # the other ranges also help the uneven model
            equalize=choice,
        )
        assert "swish" in facts.equalized if choice == "auto" else facts.equalized is None
        return float(np.abs(open_model(path).predict(images) - expected).mean())

    assert error("auto") < 0.5 * error("off")


@pytest.mark.parametrize("recipe", ["tflite.int8", "onnx.int8"])
def test_equalizing_is_an_option_of_the_recipes_and_yaml_may_say_off(recipe: str) -> None:
    assert RECIPES.check(recipe, {})["equalize"] == "auto"
    assert RECIPES.check(recipe, yaml.safe_load("equalize: off"))["equalize"] == "off"
    with pytest.raises(UserError, match=r"option equalize of recipe .* is True"):
        RECIPES.check(recipe, yaml.safe_load("equalize: on"))


def test_a_layer_that_was_rewritten_stays_in_float_by_its_own_name(uneven, tmp_path) -> None:
    conversion = Conversion(uneven, lambda: iter(random_images(16, 32)))
    (name, *_) = equalize(uneven, random_images(16, 32)).owners.values()
    for layer in (name, f"{name}_product"):
        facts = RECIPES["tflite.int8"](
            conversion, tmp_path / "file.tflite", output="logits", keep_float=[layer]
        )
        assert name in facts.kept_float
        assert not any(layer.endswith("_product") for layer in facts.kept_float)


def test_scales_multiply_to_one_and_are_bounded_below() -> None:
    # Ranges 64, 1 and 0: the last counts as a 64th of the largest. Geometric mean 4.
    assert _scale(np.array([64.0, 1.0, 0.0])) == pytest.approx([16, 0.25, 0.25])


def build(after) -> keras.Model:
    pixels = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="conv")(pixels))
    return keras.Model(pixels, after(x))


def logits(x):
    """Logits as large as those of a trained model, so that rounding their inputs matters."""
    large = keras.initializers.VarianceScaling(100.0)
    return layers.Dense(2, kernel_initializer=large)(layers.GlobalAveragePooling2D()(x))


def test_a_model_without_a_place_for_a_scale_stays_as_it_is() -> None:
    model = build(lambda x: logits(layers.Activation("gelu")(x)))
    assert equalize(model, random_images(4, 8)) == (model, [], {})


def test_a_model_within_a_model_is_equalized(images: np.ndarray) -> None:
    inner = build(lambda x: layers.Conv2D(4, 1)(layers.Activation("silu")(x)))
    pixels = keras.Input((8, 8, 3), name="image")
    model = keras.Model(pixels, logits(inner(pixels)))
    photos = random_images(8, 8)
    result = equalized(model, photos)
    np.testing.assert_allclose(
        result.predict_on_batch(photos), model.predict_on_batch(photos), rtol=1e-4, atol=1e-4
    )


def test_nested_models_with_layers_of_one_name_stay_as_they_are() -> None:
    pixels = keras.Input((8, 8, 3), name="image")
    convs = [
        keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 1, name="conv")]) for _ in "ab"
    ]
    x = layers.Activation("silu")(layers.BatchNormalization()(convs[0](pixels)))
    model = keras.Model(pixels, logits(convs[1](x)))
    assert equalize(model, random_images(4, 8)) == (model, [], {})


def test_the_layers_of_a_rewritten_activation_belong_to_it(uneven, rewritten) -> None:
    result = equalize(uneven, random_images(16, 32))
    before = {layer.name for layer in uneven.layers}
    added = {layer.name for layer in result.model.layers[1:]} - before
    assert added == set(result.owners)
    assert set(result.owners.values()) <= set(result.places)


def with_kernels(model: keras.Model, change) -> keras.Model:
    """A copy of the model whose kernels between the first and the last are changed."""
    copy = copy_model(model)
    for _, layer in inner_kernels(copy):
        layer.kernel.assign(change(layer, np.asarray(layer.kernel)))
    return copy


@pytest.mark.parametrize(
    "change",
    [
        lambda layer, kernel: clustered(kernel, 16),
        lambda layer, kernel: round_kernel(layer, kernel),
    ],
    ids=["clusters", "int8 steps"],
)
def test_kernels_that_a_method_gave_few_values_keep_them(uneven, change) -> None:
    model = with_kernels(uneven, change)
    result = with_all_rewritten(model, random_images(8, 32))
    for _, layer in inner_kernels(model):
        kernel = np.asarray(layer.kernel)
        np.testing.assert_array_equal(result.get_layer(layer.name).kernel, kernel)


def test_zeros_of_pruned_kernels_stay_and_do_not_keep_a_place_from_being_scaled(uneven) -> None:
    def pruned(layer, kernel: np.ndarray) -> np.ndarray:
        return np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.9), 0, kernel)

    model = with_kernels(uneven, pruned)
    assert len(find_spans(LayerGraph.of(model))) == len(find_spans(LayerGraph.of(uneven)))
    result = with_all_rewritten(model, random_images(8, 32))
    for _, layer in inner_kernels(model):
        is_zero = np.asarray(layer.kernel) == 0
        np.testing.assert_array_equal(np.asarray(result.get_layer(layer.name).kernel) == 0, is_zero)
