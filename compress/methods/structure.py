"""The structure that methods give to kernels, and that later training must keep.

Pruning leaves zeros and clustering leaves equal weights. The method that made them declares so
(`makes`), and the manifest of every later model names the kernels that have them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from compress.graph.kernels import MAX_CLUSTERS, has_kernel, is_depthwise
from compress.graph.replay import named_layers

Kind = Literal["zeros", "clusters"]


@dataclass(frozen=True)
class Structure:
    """Which kernels of a model have a structure, by the names of their layers.

    Attributes:
        zeros: kernels whose zeros stay zero.
        clusters: kernels whose equal weights stay equal.
    """

    zeros: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()

    def with_kinds(self, kinds: tuple[Kind, ...], model: keras.Model) -> "Structure":
        """The structure after a method has made these kinds in the inner kernels of `model`."""
        # The name of the layer alone: rewrites flatten nested models and keep it.
        names = tuple(layer.name for _, layer in inner_kernels(model))
        return Structure(
            zeros=names if "zeros" in kinds else self.zeros,
            clusters=names if "clusters" in kinds else self.clusters,
        )


def inner_kernels(model: keras.Model) -> list[tuple[str, keras.Layer]]:
    """The layers that `magnitude` and `cluster` change, with names that are unique in the model.

    These are the Conv2D and Dense layers between the first and the last of them. The first, the
    last and depthwise kernels hold about 1 % of the weights, and all features pass through them.
    """
    kernels = [
        (name, layer)
        for name, layer in named_layers(model)
        if has_kernel(layer) and not is_depthwise(layer)
    ]
    return kernels[1:-1]


def keep_structure(model: keras.Model, structure: Structure) -> None:
    """Constrain the training of a model, so that its kernels keep their structure.

    Zeros stay zero. Equal weights move together, by the mean of what each would move alone (as the
    gradients of shared weights add up in Han et al. 2016, section 3.3, arXiv:1510.00149).
    """
    for _, layer in named_layers(model):
        has_zeros, has_clusters = (
            layer.name in names for names in (structure.zeros, structure.clusters)
        )
        if has_zeros or has_clusters:
            kernel = getattr(layer, "layer", layer).kernel  # `qat` wraps layers
            kernel.constraint = _constraint(
                ops.convert_to_numpy(kernel), has_zeros=has_zeros, has_clusters=has_clusters
            )


def _constraint(
    kernel: np.ndarray, *, has_zeros: bool, has_clusters: bool
) -> Callable[[Any], Any] | None:
    """What restores the structure of a kernel after an update; None if it has none."""
    if not kernel.any():
        return None  # No method makes such a kernel. Kept as it is, it could never learn.
    mask = (kernel != 0).astype(kernel.dtype) if has_zeros else np.ones_like(kernel)
    if has_clusters:
        return _averaging(*_equal_weights(kernel), mask)
    return None if mask.all() else lambda weights: weights * mask


def _equal_weights(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the cluster that each weight belongs to, and the size of every cluster."""
    _, clusters, sizes = np.unique(kernel, return_inverse=True, return_counts=True)
    if len(sizes) > MAX_CLUSTERS + 1:  # zero included
        # `qat` folded a BatchNormalization into the kernel: a scale for each output channel.
        channels = np.broadcast_to(np.arange(kernel.shape[-1]), kernel.shape).ravel()
        pairs = channels * len(sizes) + clusters.ravel()
        _, clusters, sizes = np.unique(pairs, return_inverse=True, return_counts=True)
    return clusters.ravel().astype("int32"), sizes


def _averaging(clusters: np.ndarray, sizes: np.ndarray, mask: np.ndarray) -> Callable[[Any], Any]:
    """Gives every weight the mean of its cluster, and zeros where the mask is 0."""
    shares = (1 / sizes).astype(mask.dtype)

    def averaged(weights: Any) -> Any:
        sums = ops.segment_sum(ops.reshape(weights, (-1,)), clusters, len(sizes))
        return ops.reshape(ops.take(sums * shares, clusters), mask.shape) * mask

    return averaged
