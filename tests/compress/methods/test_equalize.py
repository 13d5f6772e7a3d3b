import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.layer_graph import LayerGraph
from compress.int8.equalization import divide_outputs, find_spans
from compress.methods import METHODS
from compress.methods.equalize import (
    WORTH,
    _fewest,
    _ranges,
    _rewritten,
    _scale,
)
from compress.recipes.conversion import Conversion
from compress.recipes.tflite import RECIPES
from configs.errors import UserError
from eval.devices.probe import open_model
from small_models import random_images, settle


def equalized(model: keras.Model, images: np.ndarray, **options) -> keras.Model:
    return METHODS["equalize"](model, calibration=lambda: iter(images), **options)


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


def test_int8_of_an_equalized_model_is_closer_to_its_float_model(tmp_path) -> None:
    # One uneven swish before a depthwise convolution. The normalization behind it makes all
    # channels count the same again, so the answers depend on what int8 loses in the small ones.
    images = random_images(32, 16)
    keras.utils.set_random_seed(2)
    pixels = keras.Input((16, 16, 3), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(16, 3)(layers.Rescaling(1 / 255)(pixels)))
    x = layers.DepthwiseConv2D(3, use_bias=False)(layers.Activation("silu")(x))
    x = layers.Conv2D(16, 1, activation="relu")(layers.BatchNormalization()(x))
    model = settle(keras.Model(pixels, logits(x)), images)
    settle(spread_out(model), images)
    expected = keras.ops.softmax(model.predict_on_batch(images)).numpy()

    def error(model: keras.Model, name: str) -> float:
        path = tmp_path / name
        RECIPES["tflite.int8"](
            Conversion(model, lambda: iter(images)),
            path,
            output="probabilities",
            ranges="minmax",  # the other ranges also help the uneven model
        )
        return float(np.abs(open_model(path).predict(images) - expected).mean())

    even = equalized(model, images)
    assert error(even, "even.tflite") < 0.5 * error(model, "uneven.tflite")


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


def test_a_model_without_a_place_for_a_scale_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to equalize"):
        equalized(build(lambda x: logits(layers.Activation("gelu")(x))), random_images(4, 8))


def test_a_model_within_a_model_is_equalized(images: np.ndarray) -> None:
    inner = build(lambda x: layers.Conv2D(4, 1)(layers.Activation("silu")(x)))
    pixels = keras.Input((8, 8, 3), name="image")
    model = keras.Model(pixels, logits(inner(pixels)))
    photos = random_images(8, 8)
    result = equalized(model, photos)
    np.testing.assert_allclose(
        result.predict_on_batch(photos), model.predict_on_batch(photos), rtol=1e-4, atol=1e-4
    )


def test_nested_models_with_layers_of_one_name_have_nothing_to_equalize() -> None:
    pixels = keras.Input((8, 8, 3), name="image")
    convs = [
        keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 1, name="conv")]) for _ in "ab"
    ]
    x = layers.Activation("silu")(layers.BatchNormalization()(convs[0](pixels)))
    model = keras.Model(pixels, logits(convs[1](x)))
    assert find_spans(LayerGraph.of(model)) == []
    with pytest.raises(UserError, match="several of its layers are called 'conv'"):
        equalized(model, random_images(4, 8))


def test_without_photos_there_are_no_ranges(uneven: keras.Model) -> None:
    with pytest.raises(UserError, match="needs calibration photos"):
        equalized(uneven, np.zeros((0, 32, 32, 3), "float32"))
