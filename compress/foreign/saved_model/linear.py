"""Kernels and the constants behind them: convolutions that are built when all are known."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from compress.foreign.answers import NoCounterpart

EPSILON = 1e-3


@dataclass(frozen=True, eq=False)
class Linear:
    """A convolution or a dense layer that is not built yet.

    Attributes:
        cls: the layer; it takes `options`.
        x: the tensor that it reads.
        name: of its node.
    """

    cls: Any
    x: Any
    kernel: np.ndarray
    options: tuple[tuple[str, Any], ...]
    name: str

    @property
    def num_channels(self) -> int:
        """The number of channels that it returns."""
        is_depthwise = self.cls is keras.layers.DepthwiseConv2D
        return int(np.prod(self.kernel.shape[2:]) if is_depthwise else self.kernel.shape[-1])

    def layer(self, affine: "Affine", name: str) -> Any:
        """The layer with a scale in its kernel, and an offset as its bias."""
        num = self.num_channels
        scale, offset = (np.broadcast_to(part, num) for part in (affine.scale, affine.offset))
        layer = self.cls(name=name, use_bias=bool(np.any(offset)), **dict(self.options))
        layer.build(self.x.shape)
        # The last two axes of a depthwise kernel are (input channels, multiplier).
        is_depthwise = self.cls is keras.layers.DepthwiseConv2D
        scale = scale.reshape(self.kernel.shape[2:]) if is_depthwise else scale
        kernel = (self.kernel.astype("float64") * scale).astype("float32")
        layer.set_weights([kernel, offset] if layer.use_bias else [kernel])
        return layer


@dataclass(frozen=True, eq=False)
class Affine:
    """source * scale + offset.

    Attributes:
        source: a tensor or a `Linear`.
        scale, offset: one number, or one for each channel.
    """

    source: Any
    scale: Any
    offset: Any

    @property
    def num_channels(self) -> int:
        """The number of channels of the source."""
        if isinstance(self.source, Linear):
            return self.source.num_channels
        return int(self.source.shape[-1])

    def then(self, scale: Any, offset: Any) -> "Affine":
        """The same, times a constant plus a constant."""
        scale, offset = self._by_channel(scale), self._by_channel(offset)
        return Affine(self.source, self.scale * scale, self.offset * scale + offset)

    def _by_channel(self, constant: Any) -> np.ndarray:
        array = np.asarray(constant, "float64")
        if array.size == 1:
            return array.reshape(())
        if array.size == array.shape[-1] == self.num_channels:
            return array.reshape(-1)
        raise NoCounterpart(f"a constant of the shape {array.shape} is added or multiplied")

    def normalization(self, name: str) -> Any:
        """The same as a BatchNormalization, which recipes know how to fold."""
        num = self.num_channels
        layer = keras.layers.BatchNormalization(epsilon=EPSILON, name=name)
        layer.build(self.source.shape)
        scale, offset = (np.broadcast_to(part, num) for part in (self.scale, self.offset))
        layer.set_weights([scale, offset, np.zeros(num), np.full(num, 1 - EPSILON)])
        return layer


def is_neutral(scale: Any, offset: Any) -> bool:
    """Whether this scale and this offset change nothing."""
    return bool(np.all(np.asarray(scale) == 1) and not np.any(offset))
