"""What rounding each tensor of a model costs its answers, from gradients."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compress.graph.graph import batches, replay
from compress.graph.inference import output_function
from compress.int8.histogram import (
    CENTERS,
    EDGES,
    LEVELS,
    cheapest,
    codes,
    counted,
)
from configs.errors import UserError

NUM_GRADIENT_IMAGES = 32
"""Twice as many take twice as long and give files that agree with float as often (docs/LOG.md)."""
FACTORS = np.geomspace(1, 8, 40)
"""By which a range may be wider than the best one."""
SIDE = 64
"""Positions looked at along height and width: neighbours in a larger tensor tell the same."""


@dataclass(frozen=True)
class Sensitivity:
    """The values of one tensor, and how much the answers depend on them.

    Attributes:
        counts: values in each bin around `CENTERS`, mean over the images.
        squares: sum of their squared gradients of the log-probability, mean over the images.
        sums: sum of their gradients for each image, (images, bins).
        low: the smallest value, at most 0.
        high: the largest value, at least 0.
    """

    counts: np.ndarray
    squares: np.ndarray
    sums: np.ndarray
    low: float
    high: float

    def rounding(self, low: Any, high: Any) -> Any:
        """Nats that the answers change by when values are rounded to 255 steps of a range.

        The Kullback-Leibler divergence between the probabilities before and after, to second
        order: half the squared gradients times the squared errors, taken as independent (Li et al.
        2021, section 3.2, arXiv:2102.05426).
        """
        return 0.5 * self.squares.sum() * np.square((high - low) / LEVELS) / 12

    def clipping(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats lost below each `low` and above each `high`.

        Two ways to look at it, of which the larger counts. What is clipped moves in one direction,
        so its effects add up over an image. And it moves far, while its gradient changes (behind a
        swish it is 0 at -8 and is not at -2): it is integrated over those of the values that lie on
        the way, effects being independent.
        """
        known = np.flatnonzero(self.counts)
        some = slice(known[0], known[-1] + 1)
        # The outermost bins reach beyond the values that they hold.
        centers, counts = np.clip(CENTERS[some], self.low, self.high), self.counts[some]
        slopes = np.sqrt(self.squares[known] / self.counts[known])
        moved = np.cumsum(np.interp(centers, CENTERS[known], slopes) * np.diff(EDGES)[some])

        def lost(edges: np.ndarray, beyond: np.ndarray) -> np.ndarray:
            """`beyond`: how far each center is outside each edge, (bins, edges)."""
            together = np.square(self.sums[:, some] @ beyond).mean(axis=0)
            far = np.square(moved[:, None] - np.interp(edges, centers, moved)) * (beyond > 0)
            return 0.5 * np.maximum(together, counts @ far)

        below = lost(low, np.maximum(low - centers[:, None], 0))
        return below, lost(high, np.maximum(centers[:, None] - high, 0))

    @cached_property
    def best(self) -> tuple[float, float, float]:
        """(low, high) where rounding and clipping cost least together, and their cost in nats."""
        if not self.squares.any():
            return self.low, self.high, 0.0
        return cheapest(self.low, self.high, rounding=self.rounding, clipping=self.clipping)

    def widest(self, allowed: float) -> tuple[float, float]:
        """The best range, or the largest multiple of it that costs no more than `allowed`.

        None reaches farther than the values: what an activation bounds needs no room.
        """
        low, high, _ = self.best
        lows = np.maximum(low * FACTORS, self.low)
        highs = np.minimum(high * FACTORS, self.high)
        below, above = self.clipping(lows, highs)
        cheap = self.rounding(lows, highs) + below + above <= allowed
        widest = int(np.flatnonzero(cheap)[-1]) if cheap.any() else 0
        return float(lows[widest]), float(highs[widest])

    def cost_within(self, low: float, high: float) -> float:
        """Nats that rounding the tensor to int8 costs in this range."""
        below, above = self.clipping(np.array([low]), np.array([high]))
        return float(self.rounding(low, high) + below[0] + above[0])

    @property
    def cost(self) -> float:
        """Nats that rounding the tensor to int8 costs, its range well chosen."""
        return self.best[2]


def sensitivities(
    model: keras.Model,
    images: np.ndarray,
    *,
    only: Collection[str] | None = None,
    seed: int = 0,
) -> dict[str, Sensitivity]:
    """How the answers of a model depend on each of its tensors.

    Args:
        images: float32, (images, height, width, 3), from the training split; some dozens do.
        only: the tensors to look at; None: all.
        seed: of the answers and positions that stand for all.

    Returns:
        Sensitivities by the names of `tensors_of`.

    Raises:
        UserError: the model answers with nan or inf.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Sensitivity] = {}

    def look(name: str, values: np.ndarray, gradient: np.ndarray) -> None:
        seen = _seen(values, gradient, len(images), rng)
        found[name] = _added(found[name], seen) if name in found else seen

    look_at_gradients(model, images, rng, look, only)
    return found


def tensors_of(
    model: keras.Model,
    images: Any,
    tap: Callable[[str, Any], Any] = lambda name, tensor: tensor,
) -> dict[str, Any]:
    """The output of every layer, in order; a layer that is called again gets a name with a number.

    Args:
        images: (batch, height, width, 3); they come first, as `image`.
        tap: gets every tensor with its name, and gives the one that the next layers read.
    """
    tensors: dict[str, Any] = {}

    def note(name: str, tensor: Any) -> Any:
        key, again = name, 1
        while key in tensors:
            again += 1
            key = f"{name}:{again}"
        tensors[key] = tap(key, tensor)
        return tensors[key]

    def noted(layer: Any) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = layer(*args, **kwargs)
            is_float = tf.is_tensor(output) and output.dtype.is_floating
            return note(layer.name, output) if is_float else output

        return call

    replay(model, note("image", tf.convert_to_tensor(images)), noted)
    return tensors


def look_at_gradients(
    model: keras.Model,
    images: np.ndarray,
    rng: np.random.Generator,
    look: Callable[[str, np.ndarray, np.ndarray], None],
    only: Collection[str] | None = None,
) -> None:
    """Shows tensors with the gradient of log p(class), a class drawn by its probability p.

    One after the other as gradients flow back, so that they need not all be kept.

    Args:
        images: (images, height, width, 3); they are taken in batches.
        look: gets the name of a tensor (as of `tensors_of`), its values and its gradient.
        only: the tensors to look at; None: all.

    Raises:
        UserError: the model answers with nan or inf.
    """
    probabilities_of = output_function(model, "probabilities")
    # TensorFlow keeps the functions that it calls from a graph for good: not what they hold.
    looking = [look]

    def show(name: str, values: np.ndarray, gradient: np.ndarray) -> None:
        looking[0](name, values, gradient)

    # Traced: eager tensors of a model live until its last layer is done, whoever still reads them.
    @tf.function(autograph=False)
    def step(batch: Any) -> Any:
        wanted: dict[str, Any] = {}

        def tap(name: str, tensor: Any) -> Any:
            if only is None or name in only:
                tensor = wanted[name] = tf.identity(tensor)
            return tensor

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch)
            *_, last = tensors_of(model, batch, tap).values()
            probs = probabilities_of(tf.cast(last, tf.float32))
            drawn = tf.numpy_function(partial(_drawn, rng), [probs], tf.int64)
            drawn = tf.ensure_shape(drawn, batch.shape[:1])
            log_probs = tf.math.log(tf.gather(probs, drawn, batch_dims=1) + 1e-12)
            total = tf.reduce_sum(log_probs)
        gradients = tape.gradient(total, wanted)
        for name in reversed(wanted):
            if gradients[name] is not None:
                tf.numpy_function(partial(show, name), [wanted[name], gradients[name]], [])
        return probs

    try:
        for batch in batches(images):
            if not np.isfinite(step(tf.convert_to_tensor(batch))).all():
                raise UserError(
                    f"model {model.name!r} answers calibration photos with values that are no "
                    "numbers (nan or inf), so nothing can be told of them. Check its training, or "
                    "--pixels."
                )
    finally:
        looking.clear()


def _drawn(rng: np.random.Generator, probs: np.ndarray) -> np.ndarray:
    """A class for each row, by its probability; any where those are no numbers."""
    rows = (probs if np.isfinite(probs).all() else np.ones_like(probs)).astype("float64")
    return np.array([rng.choice(len(row), p=row / row.sum()) for row in rows])


def _seen(
    values: np.ndarray, gradients: np.ndarray, num_images: int, rng: np.random.Generator
) -> Sensitivity:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    share = 1.0
    if values.ndim == 4:
        step = [max(size // SIDE, 1) for size in values.shape[1:3]]
        at = tuple(slice(rng.integers(each), None, each) for each in step)
        num_all = values.size
        values, gradients = values[:, *at], gradients[:, *at]
        share = values.size / num_all
    gradients = gradients.reshape(len(values), -1).astype("float64")
    coded = codes(values).reshape(gradients.shape)
    return Sensitivity(
        counts=counted(coded.ravel()) / share / num_images,
        squares=counted(coded.ravel(), np.square(gradients).ravel()) / share / num_images,
        sums=np.stack([counted(*each) for each in zip(coded, gradients, strict=True)]) / share,
        low=low,
        high=high,
    )


def _added(one: Sensitivity, other: Sensitivity) -> Sensitivity:
    return Sensitivity(
        counts=one.counts + other.counts,
        squares=one.squares + other.squares,
        sums=np.concatenate([one.sums, other.sums]),
        low=min(one.low, other.low),
        high=max(one.high, other.high),
    )
