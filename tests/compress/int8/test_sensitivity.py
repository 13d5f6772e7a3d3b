import dataclasses
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compress.graph.gradients import tensors_of
from compress.int8.histogram import CENTERS, EDGES, bins
from compress.int8.sensitivity import Sensitivity, measure_sensitivities
from configs.errors import UserError
from small_models import random_images


def of_values(values, gradients, *, images: int = 1) -> Sensitivity:
    """The sensitivity over so many images, all with these values."""
    values, gradients = np.array(values, "float32"), np.array(gradients, "float64")

    def histogram(weights=None):
        return np.bincount(bins(values), weights, minlength=len(CENTERS))

    signs = np.random.default_rng(0).choice([-1, 1], (images, len(values)))
    return Sensitivity(
        counts=histogram(),
        squares=histogram(gradients**2),
        sums=np.stack([histogram(gradients * sign) for sign in signs]),
        low=min(0.0, float(values.min())),
        high=max(0.0, float(values.max())),
    )


def test_sensitivities_do_not_outlive_their_owner(tiny_model, images):
    sensitivities = measure_sensitivities(tiny_model, images)
    reference = weakref.ref(next(iter(sensitivities.values())))
    del sensitivities
    gc.collect()
    assert reference() is None


def test_rounding_costs_half_the_squared_gradients_times_the_variance_of_a_step():
    # Steps of 2 have a variance of 4/12; half of (3 + 5) times that.
    sensitivity = of_values([1.0, -1.0], [3**0.5, 5**0.5])
    assert sensitivity.rounding_cost(-255.0, 255.0) == pytest.approx(4 / 3)


def test_values_without_effect_do_not_widen_the_range():
    ignored = np.linspace(-100, -1.1, 200)
    sensitivity = of_values([*ignored, *np.linspace(-1, 1, 50)], [0.0] * 200 + [1.0] * 50)
    low, high, _ = sensitivity.best
    assert -6 < low <= -1
    assert 1 <= high < 1.2


def test_a_value_that_matters_is_kept():
    sensitivity = of_values([-100.0, *np.linspace(-1, 1, 50)], [1.0] * 51)
    low, high, cost = sensitivity.best
    assert low <= -99
    # Clipping it would cost 1/2 * 99^2; rounding all costs this, and no more.
    assert cost == pytest.approx(0.5 * 51 * (high - low) ** 2 / 255**2 / 12, rel=0.2)


def test_clipping_counts_the_gradients_on_the_way_of_a_value():
    # Behind a swish the gradient is 0 at -10 but not at -1, and a value clipped to 0 passes -1.
    sensitivity = of_values([-10.0, -1.0, 1.0], [0.0, 2.0, 2.0])
    (below,), (above,) = sensitivity.clipping_costs(np.array([-0.5]), np.array([1.0]))
    # The slope rises from 0 at -10 to 2 at -1 (area 9) and is 2 up to -0.5 (area 1): 1/2 * 10^2,
    # and 1/2 * 1^2 for the value at -1. Bins are 10 % wide.
    assert below == pytest.approx(50.5, rel=0.15)
    assert above == pytest.approx(0, abs=0.01)


def test_clipped_values_of_an_image_add_up():
    # 100 gates of 1 are clipped to 1/2. If their gradients have one sign, they change an answer by
    # 100 * 1/2 * 0.1 together. If effects are independent, their squares add up instead.
    gates = of_values(
        [*np.linspace(0.05, 0.95, 100), *np.full(100, 1.0)], [0.0] * 100 + [0.1] * 100
    )
    gates = dataclasses.replace(gates, sums=0 * gates.sums)
    together = dataclasses.replace(gates, sums=np.where(EDGES[1:] > 1, gates.counts, 0)[None] * 0.1)
    edges = np.zeros(1), np.array([0.5])
    _, (alone,) = gates.clipping_costs(*edges)
    _, (above,) = together.clipping_costs(*edges)
    assert above == pytest.approx(0.5 * 5**2, rel=0.2)
    assert alone < above / 50


def test_a_range_is_widened_while_that_is_cheap():
    sensitivity = of_values(
        [*np.linspace(-3, -1.1, 50), *np.linspace(-1, 1, 50)], [0.0] * 50 + [1.0] * 50
    )
    low, high, cost = sensitivity.best
    assert low > -2
    assert sensitivity.widest(0) == (low, high)
    wider = sensitivity.widest(2 * cost)
    assert -3 < wider[0] < 1.2 * low
    assert wider[1] == 1  # nothing is larger
    assert sensitivity.cost_within(*wider) <= 2 * cost
    assert sensitivity.widest(100 * cost) == (-3, 1)


def test_a_tensor_without_effect_keeps_its_whole_range():
    low, high, cost = of_values([-3.0, 2.0], [0.0, 0.0]).best
    assert (low, high, cost) == (-3, 2, 0)


def test_the_cost_is_the_divergence_that_rounding_causes():
    # Compared with an independent way: logits with errors as large as rounding, and the KL itself.
    keras.utils.set_random_seed(1)
    pixels = keras.Input((4, 4, 3), name="image")
    logits = layers.Dense(3, name="logits")(layers.Flatten()(layers.Rescaling(1 / 255)(pixels)))
    model = keras.Model(pixels, logits)
    images = random_images(400, 4)
    sensitivity = measure_sensitivities(model, images)["logits"]
    step = (
        (sensitivity.high - sensitivity.low) / 255 * 40
    )  # so large that the measured cost is not noise
    rng = np.random.default_rng(0)
    outputs = np.repeat(model.predict_on_batch(images), 50, axis=0)
    errors = rng.uniform(-step / 2, step / 2, outputs.shape)
    p = tf.nn.softmax(outputs).numpy().astype("float64")
    q = tf.nn.softmax(outputs + errors).numpy().astype("float64")
    measured = (p * np.log(p / q)).sum(axis=1).mean()
    predicted = sensitivity.rounding_cost(sensitivity.low, sensitivity.high) * 40**2
    assert predicted == pytest.approx(measured, rel=0.15)  # 400 drawn classes


def test_positions_that_are_left_out_are_counted_with_their_neighbours():
    pixels = keras.Input((64, 64, 3), name="image")
    x = layers.Rescaling(1 / 255, name="scaled")(pixels)
    model = keras.Model(pixels, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    sensitivity = measure_sensitivities(model, random_images(3, 64))["scaled"]
    assert sensitivity.counts.sum() == pytest.approx(64 * 64 * 3)


def test_probabilities_and_a_single_score_work_as_logits_do():
    pixels = keras.Input((4, 4, 3), name="image")
    x = layers.Flatten(name="flat")(layers.Rescaling(1 / 255)(pixels))
    images = random_images(16, 4)
    for last in (layers.Dense(3, activation="softmax"), layers.Dense(1, activation="sigmoid")):
        sensitivities = measure_sensitivities(keras.Model(pixels, last(x)), images)
        assert sensitivities["flat"].cost > 0


def test_a_layer_that_is_called_twice_has_two_tensors():
    pixels = keras.Input((4, 4, 3), name="image")
    shared = layers.Conv2D(3, 1, name="shared")
    model = keras.Model(pixels, layers.Flatten(name="flat")(shared(shared(pixels))))
    tensors = tensors_of(model, random_images(2, 4))
    assert list(tensors) == ["image", "shared", "shared:2", "flat"]


def test_gradients_are_those_of_a_tape_that_keeps_all(tiny_model, images):
    sensitivities = measure_sensitivities(tiny_model, images[:1], only=["depthwise", "image"])
    assert sensitivities.keys() == {"depthwise", "image"}
    probs = tf.nn.softmax(tiny_model(images[:1])).numpy().astype("float64")[0]
    drawn = np.random.default_rng(0).choice(len(probs), p=probs / probs.sum())
    tensor = tiny_model.get_layer("depthwise").output
    rest = keras.Model(tensor, tiny_model.output)
    values = keras.Model(tiny_model.input, tensor)(images[:1])
    with tf.GradientTape() as tape:
        tape.watch(values)
        log_prob = tf.nn.log_softmax(rest(values))[0, drawn]
    gradients = tape.gradient(log_prob, values).numpy()
    assert sensitivities["depthwise"].squares.sum() == pytest.approx(
        np.square(gradients).sum(), rel=1e-3
    )
    assert sensitivities["depthwise"].sums.sum() == pytest.approx(
        gradients.sum(), rel=1e-2, abs=1e-5
    )


def test_a_model_that_answers_nan_is_refused():
    pixels = keras.Input((4, 4, 3), name="image")
    x = layers.Rescaling(float("nan"))(pixels)
    with pytest.raises(UserError, match="no numbers"):
        measure_sensitivities(
            keras.Model(pixels, layers.Dense(2)(layers.Flatten()(x))), random_images(2, 4)
        )
