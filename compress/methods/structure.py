"""What pruned and clustered kernels have, and training must not lose: zeros and equal weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from compress.graph.rewrites import INT8_STEPS

FEWEST_SHARING = 1.25
"""Weights for each value, on average: kernels that nobody clustered have hardly any two alike."""
MOST_VALUES = 257
"""Of a clustered kernel, zero included; kernels that were float16 once have many more."""
FEWEST_STEPS = 64
"""Of a kernel that is in the steps of int8 for no other reason than that it was rounded to them."""


def keep_structure(model: keras.Model) -> None:
    """Have training leave zeros of the kernels at zero, and weights that are equal equal.

    Equal weights move together, by the mean of what each would (as the gradients of shared weights
    add up in Han et al. 2016, section 3.3, arXiv:1510.00149). In a kernel that a
    BatchNormalization was folded into, weights are equal within each output channel.
    """
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.constraint = _kept(ops.convert_to_numpy(variable))


def _kept(kernel: np.ndarray) -> Callable[[Any], Any] | None:
    """What restores the structure of a kernel after a step; None if it has none."""
    if _is_rounded(kernel):
        return None
    mask = (kernel != 0).astype(kernel.dtype)
    for columns in (kernel.reshape(-1, 1), kernel.reshape(-1, kernel.shape[-1])):
        clusters, counts = _equal(columns)
        few = len(counts) <= MOST_VALUES * columns.shape[1]
        if few and len(counts) * FEWEST_SHARING <= mask.sum():
            return _averaging(clusters, counts, mask)
    return None if mask.all() else lambda weights: weights * mask


def _is_rounded(kernel: np.ndarray) -> bool:
    """Whether a kernel is as `qat` leaves it, its weights alike and zero only by rounding."""
    is_depthwise = kernel.ndim == 4 and kernel.shape[-1] == 1
    columns = kernel.reshape(-1, kernel.shape[-2] if is_depthwise else kernel.shape[-1])
    steps = columns * (INT8_STEPS / np.maximum(np.abs(columns).max(axis=0), 1e-12))
    whole = np.round(steps)
    return np.abs(steps - whole).max() < 0.01 and len(np.unique(whole)) >= FEWEST_STEPS


def _equal(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of every weight, equal ones of a column having one, and the sizes of all."""
    clusters, sizes, num = np.empty(columns.shape, "int32"), [], 0
    for i, column in enumerate(columns.T):
        values, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        clusters[:, i] = num + inverse
        num += len(values)
        sizes.append(counts)
    return clusters.ravel(), np.concatenate(sizes)


def _averaging(clusters: np.ndarray, counts: np.ndarray, mask: np.ndarray) -> Callable[[Any], Any]:
    shares = (1 / counts).astype(mask.dtype)

    def averaged(weights: Any) -> Any:
        sums = ops.segment_sum(ops.reshape(weights, (-1,)), clusters, len(counts))
        return ops.reshape(ops.take(sums * shares, clusters), mask.shape) * mask

    return averaged
