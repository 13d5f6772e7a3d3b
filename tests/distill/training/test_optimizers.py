"""Learning rates and updates, against values worked by hand."""

import math

import keras
import numpy as np
import pytest

from configs.schema.choice import Choice
from distill.losses import label_objective
from distill.training.epochs import Phase, Schedule
from distill.training.fit import compile_model
from distill.training.optimizers import OPTIMIZERS, SCHEDULES


def rates(name: str, updates: list[int], **options) -> list[float]:
    curve = SCHEDULES[name](peak=1.0, num_updates=100, **options)
    return [float(curve(update)) for update in updates]


def test_cosine_is_what_it_was_before_there_were_others() -> None:
    own = SCHEDULES["cosine"](peak=0.3, num_updates=200)
    before = keras.optimizers.schedules.CosineDecay(0.03, 190, warmup_target=0.3, warmup_steps=10)
    updates = range(0, 220, 7)
    assert [float(own(u)) for u in updates] == [float(before(u)) for u in updates]


def test_a_warm_up_rises_linearly_from_a_tenth() -> None:
    for name in ("constant", "exponential"):
        # 10 updates: 0.1, 0.55 half-way, then the peak
        assert rates(name, [0, 5, 10], warmup=0.1) == pytest.approx([0.1, 0.55, 1.0])
    assert rates("constant", [10, 50, 99], warmup=0.1) == pytest.approx([1.0, 1.0, 1.0])
    assert rates("cosine", [0], warmup=0.0) == pytest.approx([1.0])


def test_exponential_falls_by_its_factor() -> None:
    options = {"decay": 0.9, "every": 10}
    assert rates("exponential", [0, 5, 20], **options) == pytest.approx([1, 0.9**0.5, 0.81])
    assert rates("exponential", [9, 10, 29], staircase=True, **options) == pytest.approx(
        [1.0, 0.9, 0.81]
    )
    # It counts from the end of the warm-up.
    assert rates("exponential", [30], warmup=0.1, **options) == pytest.approx([0.81])


def test_one_cycle_passes_the_points_of_pytorch() -> None:
    # torch.optim.lr_scheduler.OneCycleLR: start 1/25, peak after 30 %, end 1 / (25 * 10,000)
    assert rates("one_cycle", [0, 30, 100]) == pytest.approx([0.04, 1.0, 4e-6], rel=1e-4)
    half_way = 4e-6 + (1 - 4e-6) * 0.5 * (1 + math.cos(math.pi / 2))
    assert rates("one_cycle", [15, 65]) == pytest.approx([0.52, half_way])


def one_weight(name: str) -> keras.Model:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name=name)])
    model.layers[-1].set_weights([np.ones((1, 1)), np.ones(1)])
    return model


def updated(gradients: list[float], optimizer: Choice, **schedule) -> list[float]:
    """Kernel and bias after updates with these gradients, at a constant rate of 0.1."""
    model, factor = one_weight("logits"), schedule.pop("factor", None)
    factors = {} if factor is None else {model.layers[-1].kernel.path: factor}
    phase = Phase(1, rate=schedule.pop("rate", 1.0), factors=factors)
    settings = {"weight_decay": 0.0, **schedule}
    compile_model(
        model,
        label_objective(0.0),
        Schedule(1, 1, 0.1, curve=Choice(name="constant"), optimizer=optimizer, **settings),
        num_classes=1,
        phase=phase,
        steps=10,
    )
    for gradient in gradients:
        tensors = [keras.ops.full(variable.shape, gradient) for variable in model.variables[:2]]
        model.optimizer.apply(tensors, model.trainable_variables)
    return [float(np.squeeze(array)) for array in model.get_weights()[:2]]


def test_sgd_with_momentum_and_nesterov() -> None:
    plain = Choice(name="sgd", options={"momentum": 0.0})
    assert updated([1.0, 1.0], plain) == pytest.approx([0.8, 0.8])
    # Steps of 0.1, then 0.1 * 0.9 + 0.1
    assert updated([1.0, 1.0], Choice(name="sgd")) == pytest.approx([0.71, 0.71])
    # Nesterov: 0.9 * 0.1 + 0.1, then 0.9 * 0.19 + 0.1
    nesterov = Choice(name="sgd", options={"nesterov": True})
    assert updated([1.0, 1.0], nesterov) == pytest.approx([0.539, 0.539])


def test_adam_takes_steps_of_the_rate() -> None:
    # Its first step is the rate, whatever the gradient.
    for name in ("adam", "adamw"):
        assert updated([7.0], Choice(name=name)) == pytest.approx([0.9, 0.9], rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_spares_biases(name: str) -> None:
    kernel, bias = updated([0.0], Choice(name=name), weight_decay=0.5)
    assert kernel == pytest.approx(1 - 0.5 * 0.1)
    assert bias == 1.0


def test_clipping_shortens_the_gradient_of_all_weights_together() -> None:
    # (3, 3) has the length 3 * sqrt(2); with a length of 1, each is 1 / sqrt(2).
    plain = Choice(name="sgd", options={"momentum": 0.0})
    expected = 1 - 0.1 / math.sqrt(2)
    assert updated([3.0], plain, clip_norm=1.0) == pytest.approx([expected, expected])


def test_a_factor_slows_one_variable() -> None:
    plain = Choice(name="sgd", options={"momentum": 0.0})
    assert updated([1.0], plain, rate=0.5, factor=0.1) == pytest.approx([0.995, 0.95])


@pytest.mark.parametrize("registry", [SCHEDULES, OPTIMIZERS], ids=["schedule", "optimizer"])
def test_every_option_has_a_default_that_fits(registry) -> None:
    for name in registry.names():
        options = registry.options(name)
        assert registry.check(name, options) == options
