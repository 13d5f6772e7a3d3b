"""What pruned and clustered kernels have, and training must not lose: zeros and equal weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

MOST_CLUSTERS = 256
FEWEST_SHARING = 4
"""Weights for each value, on average: kernels that nobody clustered have hardly any two alike."""


def keep_structure(model: keras.Model) -> None:
    """Have training leave zeros of the kernels at zero, and weights that are equal equal.

    Equal weights move together, by the mean of what each would (as the gradients of shared weights
    add up in Han et al. 2016, section 3.3, arXiv:1510.00149).
    """
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.constraint = _kept(ops.convert_to_numpy(variable))


def _kept(kernel: np.ndarray) -> Callable[[Any], Any] | None:
    """What restores the structure of a kernel after a step; None if it has none."""
    values, clusters, counts = np.unique(kernel, return_inverse=True, return_counts=True)
    if len(values) <= MOST_CLUSTERS and len(values) * FEWEST_SHARING <= kernel.size:
        # A cluster at zero has no share in what the others add up.
        shares = ((values != 0) / counts).astype(kernel.dtype)
        of_weights = clusters.reshape(-1).astype("int32")

        def averaged(weights: Any) -> Any:
            sums = ops.segment_sum(ops.reshape(weights, (-1,)), of_weights, len(values))
            return ops.reshape(ops.take(sums * shares, of_weights), kernel.shape)

        return averaged
    mask = (kernel != 0).astype(kernel.dtype)
    return None if mask.all() else lambda weights: weights * mask
