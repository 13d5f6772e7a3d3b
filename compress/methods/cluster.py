"""Weight clustering: a kernel of a few different values, which a zipped file is smaller for."""

from collections.abc import Callable
from typing import Annotated

import keras
import numpy as np
from keras import layers
from pydantic import Field

from compress.graph.graph import copy_of, named_layers
from compress.methods import METHODS
from configs.errors import UserError

NUM_STEPS = 100


# Neither of the two keeps equal weights equal.
@METHODS.add(needs=("finetune",), undone_by=("equalize", "magnitude"))
def cluster(
    model: keras.Model,
    *,
    finetune: Callable[..., None],
    num_clusters: Annotated[int, Field(gt=1, le=256)] = 16,
    epochs: Annotated[int, Field(gt=0)] = 2,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4,
) -> keras.Model:
    """A copy of the model whose kernels have a few different values each, fine-tuned so.

    Weights move to the nearest of `num_clusters` centroids and learn on together (Han et al. 2016,
    section 3, arXiv:1510.00149). Zeros of a pruned kernel stay, beside the centroids. The first
    kernel, the last and depthwise ones are left as they are: they hold about 1 % of the weights.
    What it buys is a smaller file once that is zipped; no runtime is faster for it.

    Args:
        finetune: trains a model in place, (model, epochs, learning_rate); it keeps equal weights
            equal.
        num_clusters: different values in a kernel.
        epochs: how long the model learns with them.
        learning_rate: the peak of its schedule.

    Raises:
        UserError: the model has no kernel to cluster.
    """
    copy = copy_of(model)
    kernels = [layer.kernel for _, layer in named_layers(copy) if _is_clustered(layer)][1:-1]
    if not kernels:
        raise UserError(
            f"model {model.name!r} has nothing to cluster: between its first and its last kernel "
            "there is no Conv2D and no Dense layer. Leave the method out."
        )
    for kernel in kernels:
        kernel.assign(clustered(np.asarray(kernel), num_clusters))
    finetune(copy, epochs=epochs, learning_rate=learning_rate)
    return copy


def _is_clustered(layer: keras.Layer) -> bool:
    return isinstance(layer, layers.Conv2D | layers.Dense)


def clustered(kernel: np.ndarray, num_clusters: int) -> np.ndarray:
    """The kernel with every weight but zeros at the nearest centroid (k-means in one dimension).

    Centroids begin evenly spaced between the least and the largest weight, which keeps some for the
    rare large ones (Han et al. 2016, section 3.2).
    """
    some = kernel[kernel != 0].astype("float64")
    if len(np.unique(some)) <= num_clusters:
        return kernel
    centroids = np.linspace(some.min(), some.max(), num_clusters)
    for _ in range(NUM_STEPS):
        nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, some)
        counts = np.bincount(nearest, minlength=num_clusters)
        sums = np.bincount(nearest, some, minlength=num_clusters)
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    found = kernel.copy()
    found[kernel != 0] = centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, some)]
    return found
