"""What rounding each tensor of a model costs its answers, from gradients."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compress.graph import batches, output_function, replay
from configs.errors import UserError

LEVELS = 255
"""Steps of an int8 or uint8 tensor."""
SIDE = 64
"""Positions looked at along height and width: neighbours in a larger tensor tell the same."""
# A bin holds the float32 values that share sign, exponent and the first three bits of the mantissa:
# 6 to 12 % wide at every magnitude, and found by a shift. Magnitudes beyond 2^-20 and 2^20 count
# as these.
SHIFT = 20
_FIRST = (127 - 20) << 3
_MAGNITUDES = (np.arange(_FIRST, (127 + 20 << 3) + 1, dtype="uint32") << SHIFT).view("float32")
_EDGES = np.append(0.0, _MAGNITUDES[1:].astype("float64"))
EDGES = np.concatenate([-_EDGES[:0:-1], _EDGES])
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2


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
        shares = np.geomspace(0.05, 1, 50)
        lows, highs = np.unique(self.low * shares), self.high * shares
        below, above = self.clipping(lows, highs)
        cost = self.rounding(lows[:, None], highs) + below[:, None] + above
        i, j = np.unravel_index(cost.argmin(), cost.shape)
        return float(lows[i]), float(highs[j]), float(cost[i, j])

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
    for batch in batches(images):
        for name, tensor, gradient in gradients(model, batch, rng, only=only):
            seen = _seen(tensor, gradient, len(images), rng)
            found[name] = _added(found[name], seen) if name in found else seen
    return found


def tensors_of(
    model: keras.Model, images: Any, watch: Callable[[Any], None] = lambda tensor: None
) -> dict[str, Any]:
    """The output of every layer, in order; a layer that is called again gets a name with a number.

    Args:
        images: (batch, height, width, 3); they come first, as `image`.
        watch: gets every tensor before the next layer reads it.
    """
    tensors: dict[str, Any] = {}

    def note(name: str, tensor: Any) -> None:
        watch(tensor)
        key, again = name, 1
        while key in tensors:
            again += 1
            key = f"{name}:{again}"
        tensors[key] = tensor

    def noted(layer: Any) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = layer(*args, **kwargs)
            if tf.is_tensor(output) and output.dtype.is_floating:
                note(layer.name, output)
            return output

        return call

    images = tf.convert_to_tensor(images)
    note("image", images)
    replay(model, images, noted)
    return tensors


def gradients(
    model: keras.Model,
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    only: Collection[str] | None = None,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every tensor with the gradient of log p(class), a class drawn by its probability p.

    Args:
        images: (batch, height, width, 3).
        only: the tensors to look at, by the names of `tensors_of`; None: all.

    Raises:
        UserError: the model answers with nan or inf.
    """
    probabilities_of = output_function(model, "probabilities")
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tensors = tensors_of(model, images, tape.watch)
        last = list(tensors.values())[-1]
        probs = probabilities_of(tf.cast(last, tf.float32))
        if not np.isfinite(probs.numpy()).all():
            raise UserError(
                f"model {model.name!r} answers calibration photos with values that are no numbers "
                "(nan or inf), so int8 cannot be calibrated. Check its training, or --pixels."
            )
        drawn = [rng.choice(len(row), p=row / row.sum()) for row in probs.numpy().astype("float64")]
        log_probs = tf.math.log(tf.gather(probs, drawn, batch_dims=1) + 1e-12)
        total = tf.reduce_sum(log_probs)
    tensors = {name: tensors[name] for name in tensors if only is None or name in only}
    found = tape.gradient(total, tensors)
    for name, tensor in tensors.items():
        if found[name] is not None:
            yield name, tensor.numpy(), found[name].numpy()


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
    codes = (np.ascontiguousarray(values, "float32").view("uint32") >> SHIFT).astype("intp")
    gradients = gradients.astype("float64")

    def histogram(codes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        weights = None if weights is None else weights.ravel()
        by_code = np.bincount(codes.ravel(), weights, minlength=len(_BIN_OF_CODE))
        return np.bincount(_BIN_OF_CODE, by_code, minlength=len(CENTERS)) / share

    return Sensitivity(
        counts=histogram(codes) / num_images,
        squares=histogram(codes, np.square(gradients)) / num_images,
        sums=np.stack([histogram(*each) for each in zip(codes, gradients, strict=True)]),
        low=low,
        high=high,
    )


def _bins(values: np.ndarray) -> np.ndarray:
    """The index into `CENTERS` of every value."""
    half = len(CENTERS) // 2
    bits = np.ascontiguousarray(values, "float32").view("int32")
    magnitudes = np.clip(((bits & 0x7FFFFFFF) >> SHIFT) - _FIRST, 0, half - 1)
    return np.where(bits < 0, half - 1 - magnitudes, half + magnitudes)


# What is left of a value when the shift has taken the rest of its bits: the bin can be looked up.
_BIN_OF_CODE = _bins((np.arange(1 << (32 - SHIFT), dtype="uint32") << SHIFT).view("float32"))


def _added(one: Sensitivity, other: Sensitivity) -> Sensitivity:
    return Sensitivity(
        counts=one.counts + other.counts,
        squares=one.squares + other.squares,
        sums=np.concatenate([one.sums, other.sums]),
        low=min(one.low, other.low),
        high=max(one.high, other.high),
    )
