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
    """Of so many images with these values each."""
    values, gradients = np.array(values, "float32"), np.array(gradients, "float64")

    def histogram(weights=None):
        return np.bincount(bins(values), weights, minlength=len(CENTERS))

    signs = np.random.default_rng(0).choice([-1, 1], (images, len(values)))
    return Sensitivity(
        counts=histogram(),
        squares=histogram(gradients**2),
        sums=np.stack([histogram(gradients * each) for each in signs]),
        low=min(0.0, float(values.min())),
        high=max(0.0, float(values.max())),
    )


def test_nothing_of_what_was_found_outlives_its_owner(tiny_model, images):
    found = measure_sensitivities(tiny_model, images)
    kept = weakref.ref(next(iter(found.values())))
    del found
    gc.collect()
    assert kept() is None


def test_rounding_costs_half_the_squared_gradients_times_the_variance_of_a_step():
    # Steps of 2 have a variance of 4/12; half of (3 + 5) times that.
    some = of_values([1.0, -1.0], [3**0.5, 5**0.5])
    assert some.rounding_cost(-255.0, 255.0) == pytest.approx(4 / 3)


def test_values_that_matter_to_nothing_do_not_widen_the_range():
    ignored = np.linspace(-100, -1.1, 200)
    some = of_values([*ignored, *np.linspace(-1, 1, 50)], [0.0] * 200 + [1.0] * 50)
    low, high, _ = some.best
    assert -6 < low <= -1
    assert 1 <= high < 1.2


def test_a_value_that_matters_is_kept():
    some = of_values([-100.0, *np.linspace(-1, 1, 50)], [1.0] * 51)
    low, high, cost = some.best
    assert low <= -99
    # Clipping it would cost 1/2 * 99^2; rounding all costs this, and no more.
    assert cost == pytest.approx(0.5 * 51 * (high - low) ** 2 / 255**2 / 12, rel=0.2)


def test_clipping_is_felt_on_the_way_even_where_the_gradient_is_0_in_the_end():
    # Behind a swish -10 matters to nothing, but -1 does: what is clipped to 0 passes -1.
    some = of_values([-10.0, -1.0, 1.0], [0.0, 2.0, 2.0])
    (below,), (above,) = some.clipping_costs(np.array([-0.5]), np.array([1.0]))
    # The slope rises from 0 at -10 to 2 at -1 (area 9) and is 2 up to -0.5 (area 1): 1/2 * 10^2,
    # and 1/2 * 1^2 for the value at -1. Bins are 10 % wide.
    assert below == pytest.approx(50.5, rel=0.15)
    assert above == pytest.approx(0, abs=0.01)


def test_what_is_clipped_adds_up_over_an_image():
    # 100 gates of 1 among others, clipped to 1/2: they scale an answer together if their gradients
    # have one sign, by 100 * 1/2 * gradient, and as a single one of 5 * 1/2 * gradient if not.
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


def test_what_costs_little_is_not_clipped():
    some = of_values([*np.linspace(-3, -1.1, 50), *np.linspace(-1, 1, 50)], [0.0] * 50 + [1.0] * 50)
    low, high, cost = some.best
    assert low > -2
    assert some.widest(0) == (low, high)
    wider = some.widest(2 * cost)
    assert -3 < wider[0] < 1.2 * low
    assert wider[1] == 1  # nothing is larger
    assert some.cost_within(*wider) <= 2 * cost
    assert some.widest(100 * cost) == (-3, 1)


def test_what_hardly_anything_depends_on_keeps_its_range():
    low, high, cost = of_values([-3.0, 2.0], [0.0, 0.0]).best
    assert (low, high, cost) == (-3, 2, 0)


def test_the_cost_is_the_divergence_that_rounding_causes():
    # Against an independent way: logits with errors of the size of rounding, and the KL itself.
    keras.utils.set_random_seed(1)
    pixels = keras.Input((4, 4, 3), name="image")
    logits = layers.Dense(3, name="logits")(layers.Flatten()(layers.Rescaling(1 / 255)(pixels)))
    model = keras.Model(pixels, logits)
    images = random_images(400, 4)
    some = measure_sensitivities(model, images)["logits"]
    step = (some.high - some.low) / 255 * 40  # so large that the measured one is not noise
    rng = np.random.default_rng(0)
    outputs = np.repeat(model.predict_on_batch(images), 50, axis=0)
    errors = rng.uniform(-step / 2, step / 2, outputs.shape)
    p = tf.nn.softmax(outputs).numpy().astype("float64")
    q = tf.nn.softmax(outputs + errors).numpy().astype("float64")
    measured = (p * np.log(p / q)).sum(axis=1).mean()
    predicted = some.rounding_cost(some.low, some.high) * 40**2
    assert predicted == pytest.approx(measured, rel=0.15)  # 400 drawn classes


def test_positions_that_are_left_out_are_counted_by_their_neighbours():
    pixels = keras.Input((64, 64, 3), name="image")
    x = layers.Rescaling(1 / 255, name="scaled")(pixels)
    model = keras.Model(pixels, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    some = measure_sensitivities(model, random_images(3, 64))["scaled"]
    assert some.counts.sum() == pytest.approx(64 * 64 * 3)


def test_probabilities_and_one_score_serve_as_well_as_logits():
    pixels = keras.Input((4, 4, 3), name="image")
    x = layers.Flatten(name="flat")(layers.Rescaling(1 / 255)(pixels))
    images = random_images(16, 4)
    for last in (layers.Dense(3, activation="softmax"), layers.Dense(1, activation="sigmoid")):
        found = measure_sensitivities(keras.Model(pixels, last(x)), images)
        assert found["flat"].cost > 0


def test_a_layer_that_is_called_twice_has_two_tensors():
    pixels = keras.Input((4, 4, 3), name="image")
    shared = layers.Conv2D(3, 1, name="shared")
    model = keras.Model(pixels, layers.Flatten(name="flat")(shared(shared(pixels))))
    found = tensors_of(model, random_images(2, 4))
    assert list(found) == ["image", "shared", "shared:2", "flat"]


def test_gradients_are_those_of_a_tape_that_keeps_all(tiny_model, images):
    some = measure_sensitivities(tiny_model, images[:1], only=["depthwise", "image"])
    assert some.keys() == {"depthwise", "image"}
    probs = tf.nn.softmax(tiny_model(images[:1])).numpy().astype("float64")[0]
    drawn = np.random.default_rng(0).choice(len(probs), p=probs / probs.sum())
    tensor = tiny_model.get_layer("depthwise").output
    rest = keras.Model(tensor, tiny_model.output)
    values = keras.Model(tiny_model.input, tensor)(images[:1])
    with tf.GradientTape() as tape:
        tape.watch(values)
        log_prob = tf.nn.log_softmax(rest(values))[0, drawn]
    gradients = tape.gradient(log_prob, values).numpy()
    assert some["depthwise"].squares.sum() == pytest.approx(np.square(gradients).sum(), rel=1e-3)
    assert some["depthwise"].sums.sum() == pytest.approx(gradients.sum(), rel=1e-2, abs=1e-5)


def test_a_model_that_answers_nan_is_refused():
    pixels = keras.Input((4, 4, 3), name="image")
    x = layers.Rescaling(float("nan"))(pixels)
    with pytest.raises(UserError, match="no numbers"):
        measure_sensitivities(
            keras.Model(pixels, layers.Dense(2)(layers.Flatten()(x))), random_images(2, 4)
        )
