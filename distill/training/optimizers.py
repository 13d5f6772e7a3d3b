"""`SCHEDULES` and `OPTIMIZERS`: how fast a network learns, and by which rule."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field

from configs.records import Share
from configs.registry import Registry

SCHEDULES = Registry("schedule")
OPTIMIZERS = Registry("optimizer")

Positive = Annotated[float, Field(gt=0)]
Rate = Any
"""A learning rate: a number or a Keras schedule."""

FIRST_RATE = 0.1
"""Share of the peak at the first update of a warm-up."""
# Weight decay on these only shrinks the scales of the activations.
NOT_DECAYED = ["gamma", "beta", "bias"]


class RateCurve(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly in its warm-up and then follows a curve.

    Args:
        peak: the rate at the end of the warm-up.
        num_warmup: updates of the warm-up.
        factor: updates since the warm-up, float32 -> share of the peak.
    """

    def __init__(self, peak: float, num_warmup: int, factor: Callable[[Any], Any]) -> None:
        self.peak = peak
        self.num_warmup = num_warmup
        self.factor = factor

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rising = FIRST_RATE + (1.0 - FIRST_RATE) * step / max(self.num_warmup, 1)
        factor = self.factor(ops.maximum(step - self.num_warmup, 0.0))
        return self.peak * ops.where(step < self.num_warmup, rising, factor)


def _num_warmup(num_updates: int, warmup: float) -> int:
    return max(int(num_updates * warmup), 1) if warmup else 0


@SCHEDULES.add
def cosine(*, peak: float, num_updates: int, warmup: Share = 0.05) -> Rate:
    """Falls to 0 on half a cosine (Loshchilov and Hutter 2017, equation 5, arXiv:1608.03983).

    Args:
        peak: the largest rate.
        num_updates: of the whole training, or of its phase.
        warmup: share of the updates in which the rate first rises from a tenth of the peak.
    """
    num_warmup = _num_warmup(num_updates, warmup)
    if not num_warmup:
        return keras.optimizers.schedules.CosineDecay(peak, max(num_updates, 1))
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak * FIRST_RATE,
        warmup_target=peak,
        warmup_steps=num_warmup,
        decay_steps=max(num_updates - num_warmup, 1),
    )


@SCHEDULES.add
def constant(*, peak: float, num_updates: int, warmup: Share = 0.0) -> Rate:
    """The peak, after the warm-up; arguments as of `cosine`."""
    return RateCurve(peak, _num_warmup(num_updates, warmup), lambda step: ops.ones_like(step))


@SCHEDULES.add
def exponential(
    *,
    peak: float,
    num_updates: int,
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9,
    every: Annotated[int, Field(gt=0)] = 1000,
    staircase: bool = False,
    warmup: Share = 0.0,
) -> Rate:
    """Falls by a factor of `decay` in every `every` updates; other arguments as of `cosine`.

    Args:
        staircase: falls at once at the end of these updates, not a little at each.
    """

    def factor(step: Any) -> Any:
        times = step / every
        return ops.power(decay, ops.floor(times) if staircase else times)

    return RateCurve(peak, _num_warmup(num_updates, warmup), factor)


@SCHEDULES.add
def one_cycle(
    *,
    peak: float,
    num_updates: int,
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    start: Annotated[float, Field(gt=0, le=1)] = 0.04,
    end: Annotated[float, Field(ge=0, le=1)] = 4e-6,
) -> Rate:
    """Rises to the peak on half a cosine, and falls far below its start on another.

    The policy of Smith and Topin 2017 (arXiv:1708.07120, section 3), with the cosines and the
    defaults of PyTorch's OneCycleLR. The momentum stays the same.

    Args:
        warmup: share of the updates in which the rate rises.
        start, end: first and last rate, as shares of the peak.
    """
    num_warmup = max(int(num_updates * warmup), 1)
    num_after = max(num_updates - num_warmup, 1)

    def between(first: float, last: float, progress: Any) -> Any:
        progress = ops.clip(progress, 0.0, 1.0)
        return last + (first - last) * 0.5 * (1.0 + ops.cos(math.pi * progress))

    def factor(step: Any) -> Any:
        rising = between(start, 1.0, step / num_warmup)
        falling = between(1.0, end, (step - num_warmup) / num_after)
        return ops.where(step < num_warmup, rising, falling)

    return RateCurve(peak, 0, factor)


@OPTIMIZERS.add
def adamw(
    *,
    rate: Rate,
    weight_decay: float,
    common: Mapping[str, Any],
    beta_1: Share = 0.9,
    beta_2: Share = 0.999,
) -> keras.optimizers.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101).

    Args:
        weight_decay: share of a weight that is subtracted at each update, times the rate.
        common: what all optimizers of Keras take, such as the limit of the gradients.
        beta_1, beta_2: shares that the means of gradients and of their squares keep.
    """
    return keras.optimizers.AdamW(
        rate, weight_decay=weight_decay, beta_1=beta_1, beta_2=beta_2, **common
    )


@OPTIMIZERS.add
def adam(
    *,
    rate: Rate,
    weight_decay: float,
    common: Mapping[str, Any],
    beta_1: Share = 0.9,
    beta_2: Share = 0.999,
) -> keras.optimizers.Optimizer:
    """Adam without weight decay (Kingma and Ba 2015, arXiv:1412.6980); see `adamw`."""
    return keras.optimizers.Adam(rate, beta_1=beta_1, beta_2=beta_2, **common)


@OPTIMIZERS.add
def sgd(
    *,
    rate: Rate,
    weight_decay: float,
    common: Mapping[str, Any],
    momentum: Share = 0.9,
    nesterov: bool = False,
) -> keras.optimizers.Optimizer:
    """Stochastic gradient descent; weight decay as in `adamw`.

    Args:
        momentum: share of the last step that the next one keeps.
        nesterov: looks ahead by this share (Sutskever et al. 2013, section 2).
    """
    return keras.optimizers.SGD(
        rate, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, **common
    )


def scale_rates(
    optimizer: keras.optimizers.Optimizer, factors: Mapping[str, float], variables: list[Any]
) -> None:
    """Let variables learn more slowly than others. Their weight decay stays the same.

    Args:
        factors: of the learning rate, by the path of a variable; 1 for others.
        variables: all that learn.
    """
    update_step = optimizer.update_step
    # Under TensorFlow, an optimizer updates the variables inside the variables of Keras, and on
    # several devices the copies inside these.
    by_id = {
        id(form): factors.get(variable.path, 1.0)
        for variable in variables
        for form in (variable, variable.value, *getattr(variable.value, "values", ()))
    }

    def scaled_step(gradient: Any, variable: Any, learning_rate: Any) -> Any:
        return update_step(gradient, variable, learning_rate * by_id[id(variable)])

    optimizer.update_step = scaled_step
