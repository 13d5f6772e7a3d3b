"""Which channels can be scaled, and that the answers do not change."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.layer_graph import LayerGraph
from compress.int8.equalization.equalize import _rewritten
from compress.int8.equalization.spans import Span, find_spans
from small_models import logits_of, random_images

SIZE = 8
FAR = 1e3 * random_images(4, SIZE)
"""Values up to 255,000, which are in no calibration image."""


def model_of(body: Callable[[Any], Any]) -> keras.Model:
    """`body` between pixels of 0..255 and two logits, with weights and statistics of any kind."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((SIZE, SIZE, 3), name="image")
    x = body(pixels)
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, layers.Dense(2, name="logits")(x))
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            count = layer.gamma.shape
            values = rng.uniform(0.5, 2, count), rng.normal(size=count), rng.normal(size=count)
            layer.set_weights([*values, rng.uniform(20, 200, count)])
    return model


def norm(x: Any, name: str | None = None) -> Any:
    return layers.BatchNormalization(name=name)(layers.Conv2D(4, 3, padding="same")(x))


def depthwise(x: Any) -> Any:
    return layers.DepthwiseConv2D(3, use_bias=False)(x)


def scaled(model: keras.Model) -> tuple[list[Span], keras.Model]:
    """Its spans, and the model with the channels of each divided by 1/8, 1/2, 2 and 8."""
    spans = find_spans(LayerGraph.of(model))
    sizes = [span.rounded[0].tensor.shape[-1] for span in spans]
    scales = [np.geomspace(1 / 8, 8, size) for size in sizes]
    return spans, _rewritten(model, zip(spans, scales, strict=True))


def tensor(model: keras.Model, name: str, images: np.ndarray) -> np.ndarray:
    inner = keras.Model(model.inputs[0], model.get_layer(name).output)
    return keras.ops.convert_to_numpy(inner(images, training=False))


def assert_same_answers(rewritten: keras.Model, model: keras.Model, images: np.ndarray) -> None:
    expected = logits_of(model, images)
    # A few roundings of float32, whose numbers are 1e-7 apart.
    largest = max(float(np.abs(expected).max()), 1)
    np.testing.assert_allclose(logits_of(rewritten, images), expected, atol=1e-5 * largest)


ACTIVATIONS = {
    "linear": (lambda: layers.Activation("linear", name="act"), "act"),
    "relu": (lambda: layers.ReLU(name="act"), "act"),
    "leaky": (lambda: layers.LeakyReLU(0.1, name="act"), "act"),
    "prelu": (lambda: layers.PReLU("ones", name="act"), "act"),
    "relu6": (lambda: layers.ReLU(6.0, name="act"), "act_cut"),
    "relu6 by name": (lambda: layers.Activation("relu6", name="act"), "act_cut"),
    "swish": (lambda: layers.Activation("silu", name="act"), "act_product"),
    "hard-swish": (lambda: layers.Activation("hard_swish", name="act"), "act_product"),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_activation_has_a_rule_that_holds_for_any_image(kind: str) -> None:
    build, afterwards = ACTIVATIONS[kind]
    model = model_of(lambda x: depthwise(build()(norm(x))))
    (span, *_), rewritten = scaled(model)
    for images in (random_images(4, SIZE), FAR, -FAR):
        assert_same_answers(rewritten, model, images)
        # The tensor in between is the original one, divided by s.
        before = tensor(model, "act", images)
        after = tensor(rewritten, afterwards, images) * [1 / 8, 1 / 2, 2, 8]
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    assert [rule.name for rule in span.activations.values()] == (
        [] if afterwards == "act" else [kind.removesuffix(" by name").replace("relu", "ReLU")]
    )


def test_the_images_reach_both_ends_of_relu6() -> None:
    build, _ = ACTIVATIONS["relu6"]
    values = tensor(model_of(lambda x: depthwise(build()(norm(x)))), "act", random_images(4, SIZE))
    assert ((values == 6).any(axis=(0, 1, 2)) & (values == 0).any(axis=(0, 1, 2))).all()


def gated(x: Any, gate: str = "hard_sigmoid") -> Any:
    """Squeeze and excitation."""
    means = layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = layers.Conv2D(2, 1, activation="relu", name="squeeze")(means)
    return layers.Multiply()([x, layers.Conv2D(4, 1, activation=gate, name="excite")(squeezed)])


def residual(x: Any, activation: Callable[[], Any]) -> Any:
    """An inverted residual block."""
    y = activation()(layers.BatchNormalization()(layers.Conv2D(8, 1)(x)))
    y = activation()(layers.BatchNormalization()(depthwise(layers.ZeroPadding2D(1)(y))))
    y = layers.BatchNormalization()(layers.Conv2D(4, 1)(y))
    return layers.Add()([x, layers.Dropout(0.1, noise_shape=(None, 1, 1, 1))(y)])


def hard_swish() -> Any:
    return layers.Activation("hard_swish")


BODIES = {
    # MobileNetV3: squeeze and excitation behind a hard-swish; `squeeze` is a span, too.
    "mobilenet_v3": (lambda x: layers.Conv2D(4, 1)(gated(hard_swish()(norm(x)))), 3),
    # Its first block adds what comes of a hard-swish and of no activation.
    "mobilenet_v3_stem": (lambda x: depthwise(residual(hard_swish()(norm(x)), layers.ReLU)), 4),
    # EfficientNet-Lite and MobileNetV2: one scale for all that is added up.
    "lite": (
        lambda x: depthwise(
            residual(residual(norm(x), lambda: layers.ReLU(6.0)), lambda: layers.ReLU(6.0))
        ),
        6,
    ),
    # No BatchNormalization, an activation within the layer, a depthwise multiplier, two dense ones.
    "plain": (
        lambda x: layers.Dense(4, activation="leaky_relu")(
            layers.Flatten()(
                layers.GlobalMaxPooling2D(keepdims=True)(
                    layers.Conv2D(4, 1, activation="relu")(
                        layers.MaxPooling2D()(
                            layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(
                                layers.Conv2D(4, 1)(x)
                            )
                        )
                    )
                )
            )
        ),
        4,
    ),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_scale_goes_through_the_blocks_of_known_networks(body: str) -> None:
    build, num_spans = BODIES[body]
    model = model_of(build)
    spans, rewritten = scaled(model)
    assert len(spans) == num_spans
    for images in (random_images(4, SIZE), FAR):
        assert_same_answers(rewritten, model, images)


def test_a_rewritten_model_survives_saving(tmp_path) -> None:
    model = model_of(lambda x: hard_swish()(norm(layers.ReLU(6.0)(norm(x)))))
    _, rewritten = scaled(model)
    rewritten.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    images = random_images(4, SIZE)
    np.testing.assert_array_equal(logits_of(again, images), logits_of(rewritten, images))


def twice(layer: Any) -> Callable[[Any], Any]:
    return lambda x: layer(layer(x))


@pytest.mark.parametrize(
    "body",
    [
        # A layer that is called twice has one set of weights for two scales.
        lambda x: twice(layers.Conv2D(3, 3, padding="same"))(x),
        # A swish and another layer read the same tensor.
        lambda x: (lambda y: layers.Multiply()([y, layers.Activation("silu")(y)]))(norm(x)),
        # Nothing divides the pixels, and all summands have one scale.
        lambda x: layers.Conv2D(4, 1, activation="tanh")(layers.Add()([x, layers.Conv2D(3, 1)(x)])),
        # The square of a scale.
        lambda x: (lambda y: layers.Multiply()([y, layers.Dropout(0.1)(y)]))(norm(x)),
        # One channel becomes four.
        lambda x: layers.Add()(
            [layers.Conv2D(1, 1)(x), layers.Conv2D(4, 1, activation="sigmoid")(x)]
        ),
        # Positions and channels become one axis.
        lambda x: layers.Flatten()(layers.ReLU()(norm(x))),
        # The channels of two groups share an axis of the kernel.
        lambda x: layers.Conv2D(4, 1, groups=2, activation="tanh")(norm(x)),
        # Activations without a rule.
        lambda x: layers.Activation("gelu")(norm(x)),
        lambda x: layers.ReLU(threshold=1.0)(norm(x)),
        lambda x: layers.ReLU(max_value=1.0)(norm(x)),
        lambda x: layers.Conv2D(4, 1, activation="silu")(x),
    ],
)
def test_where_a_scale_would_change_the_answers_there_is_no_span(body) -> None:
    assert find_spans(LayerGraph.of(model_of(body))) == []


def test_the_outputs_of_the_model_are_not_scaled() -> None:
    pixels = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(norm(pixels)))
    assert find_spans(LayerGraph.of(keras.Model(pixels, x))) == []
