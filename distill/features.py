"""Features of a Keras classifier: what it computes just before its logits."""

from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from configs.errors import UserError
from distill.frozen import Answers, answers_of

FeatureKind = Literal["pooled", "attention"]

MAX_SIDE = 7
"""An attention map has at most 7 x 7 places. That is what a backbone leaves of 224 pixels."""

BETWEEN = (layers.Dropout, layers.Flatten, layers.Activation, layers.Softmax)
"""Layers that may stand after the pooling, besides one Dense."""


@dataclass(frozen=True)
class Head:
    """The classifier of a network: its pooled features times `kernel`, plus `bias`, are logits.

    Attributes:
        kernel: float32, (features, classes).
        bias: float32, (classes,).
    """

    kernel: np.ndarray
    bias: np.ndarray

    def on_standardized(self, mean: np.ndarray, deviation: np.ndarray) -> "Head":
        """The same classifier for features from which `mean` was subtracted, over `deviation`."""
        return Head(deviation[:, None] * self.kernel, self.bias + mean @ self.kernel)


def feature_output(model: keras.Model, kind: FeatureKind, name: str) -> Any:
    """The symbolic features of a classifier, (batch, features).

    pooled: what its global average pooling returns. attention: the squares of the feature map that
    it pools, summed over the channels and brought to length 1 (Zagoruyko and Komodakis 2016,
    section 3.1, arXiv:1612.03928), on a square grid of at most 7 x 7 places, row by row.

    Args:
        name: of the model, for errors.

    Raises:
        UserError: the model does not end in a global average pooling and one Dense layer, or its
            feature map has a single place.
    """
    pooling, _ = _pooling_and_head(model, name)
    if kind == "pooled":
        return pooling.output
    channels = 1 if pooling.data_format == "channels_first" else -1
    # Sums of squares leave the range of float16.
    squares = ops.sum(ops.square(ops.cast(pooling.input, "float32")), axis=channels)
    height, width = squares.shape[1:]
    if height is None or height != width or height < 2:
        raise UserError(
            f"student.feature_loss attention compares where two networks look, and the feature map "
            f"of {name} has {height} x {width} places. Expected a square of 2 x 2 or more, which "
            "takes an image_size of 64. Enlarge its images, or choose hint."
        )
    maps = resampled(ops.reshape(squares, (-1, height * width)), height, min(height, MAX_SIDE))
    return maps / ops.sqrt(ops.sum(ops.square(maps), axis=-1, keepdims=True) + 1e-12)


def with_features(model: keras.Model, kind: FeatureKind, name: str) -> tuple[keras.Model, int]:
    """The classifier with its features as second output, and how many features that are.

    Raises:
        UserError: as `feature_output`.
    """
    features = feature_output(model, kind, name)
    return keras.Model(model.inputs, [model.outputs[0], features]), int(features.shape[-1])


def joined_answers(model: keras.Model) -> Answers:
    """A function that answers as the model does, with several outputs one behind the other."""
    if len(model.outputs) > 1:
        model = keras.Model(model.inputs, ops.concatenate(model.outputs, axis=-1))
    return answers_of(model)


def head_of(model: keras.Model, name: str) -> Head:
    """The classifier of a model.

    Raises:
        UserError: as `feature_output`.
    """
    _, dense = _pooling_and_head(model, name)
    kernel, *bias = map(np.asarray, dense.get_weights())
    return Head(kernel, bias[0] if bias else np.zeros(kernel.shape[1], "float32"))


def _pooling_and_head(model: keras.Model, name: str) -> tuple[Any, Any]:
    # Squeeze-and-excitation pools too. The last pooling is the one before the classifier.
    poolings = [
        number
        for number, layer in enumerate(model.layers)
        if isinstance(layer, layers.GlobalAveragePooling2D)
    ]
    after = model.layers[poolings[-1] + 1 :] if poolings else []
    heads = [layer for layer in after if isinstance(layer, layers.Dense)]
    others = [layer for layer in after if not isinstance(layer, (layers.Dense, *BETWEEN))]
    if len(heads) != 1 or others or len(model.outputs) != 1:
        raise UserError(
            f"student.feature_loss needs the features of {name}, and it does not end in "
            "GlobalAveragePooling2D and one Dense layer. Expected a Keras model that does. Set "
            "student.feature_loss to null to learn from its logits alone."
        )
    return model.layers[poolings[-1]], heads[0]


def resampled(maps: Any, side: int, new_side: int) -> Any:
    """Square maps on another grid: a new place is the mean of the area that it covers.

    Args:
        maps: float, (batch, side * side), row by row.

    Returns:
        (batch, new_side * new_side).
    """
    if side == new_side:
        return maps
    edges, new_edges = np.arange(side + 1) / side, np.arange(new_side + 1) / new_side
    low = np.maximum(edges[None, :-1], new_edges[:-1, None])
    high = np.minimum(edges[None, 1:], new_edges[1:, None])
    shares = new_side * np.maximum(high - low, 0.0)  # (new_side, side), rows add up to 1
    return ops.matmul(maps, np.kron(shares, shares).T.astype("float32"))
