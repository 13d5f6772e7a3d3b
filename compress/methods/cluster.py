"""Weight clustering: kernels with a few different values, which make a smaller zipped file."""

from collections.abc import Callable
from typing import Annotated

import keras
import numpy as np
from pydantic import Field

from compress.graph.kernels import MAX_CLUSTERS
from compress.graph.replay import copy_model
from compress.methods import METHODS
from compress.methods.structure import inner_kernels
from configs.errors import UserError

MAX_ITERATIONS = 100
"""Of k-means, for one kernel."""


# Pruning does not keep equal weights equal.
@METHODS.add(needs=("finetune",), undone_by=("magnitude",), makes=("clusters",))
def cluster(
    model: keras.Model,
    *,
    finetune: Callable[..., None],
    num_clusters: Annotated[int, Field(gt=1, le=MAX_CLUSTERS)] = 16,
    epochs: Annotated[int, Field(gt=0)] = 2,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4,
) -> keras.Model:
    """A copy of the model whose kernels have a few different values each, fine-tuned.

    Every weight moves to the nearest of `num_clusters` centroids. In training, the weights of one
    centroid move together (Han et al. 2016, section 3, arXiv:1510.00149). The zeros of a kernel
    stay, in addition to the centroids. The first kernel, the last and the depthwise ones do not
    change: they hold about 1 % of the weights. Clustering buys a smaller file once it is zipped.
    No runtime is faster for it.

    Args:
        finetune: trains a model in place, (model, epochs, learning_rate), and keeps equal weights
            equal.
        num_clusters: different values in a kernel.
        epochs: duration of the fine-tuning.
        learning_rate: the peak of its schedule.

    Raises:
        UserError: the model has no kernel to cluster.
    """
    copy = copy_model(model)
    kernels = [layer.kernel for _, layer in inner_kernels(copy)]
    if not kernels:
        raise UserError(
            f"model {model.name!r} has nothing to cluster: cluster changes Conv2D and Dense layers "
            "between the first and the last of them. Remove the method."
        )
    for kernel in kernels:
        kernel.assign(clustered(np.asarray(kernel), num_clusters))
    finetune(copy, epochs=epochs, learning_rate=learning_rate)
    return copy


def clustered(kernel: np.ndarray, num_clusters: int) -> np.ndarray:
    """The kernel with every weight except zeros at the nearest centroid.

    The centroids start evenly spaced between the smallest and the largest weight, which keeps some
    of them for the rare large weights (Han et al. 2016, section 3.2).
    """
    # Not scikit-learn's KMeans: it moves centroids without weights elsewhere, which changes 10 of
    # the 64 kernels of EfficientNetB0, and takes three times as long (32 s, 16 clusters).
    weights = kernel[kernel != 0].astype("float64")
    if len(np.unique(weights)) <= num_clusters:
        return kernel
    centroids = np.linspace(weights.min(), weights.max(), num_clusters)
    for _ in range(MAX_ITERATIONS):
        nearest = _nearest(centroids, weights)
        counts = np.bincount(nearest, minlength=num_clusters)
        sums = np.bincount(nearest, weights, minlength=num_clusters)
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    result = kernel.copy()
    result[kernel != 0] = centroids[_nearest(centroids, weights)]
    return result


def _nearest(centroids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The index of the nearest centroid for every weight; the centroids are sorted."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, weights)
