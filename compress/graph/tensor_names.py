"""The names of tensors: the input of every file, and what the layers of a model return."""

from collections import Counter

INPUT = "image"
"""The input of every file, and the first of the tensors of a model."""


class CallNames:
    """Names of what the layers of one model return, in the order of their calls.

    The first call of a layer has the name of the layer. Later calls of it have a number too:
    "conv", "conv:2".
    """

    def __init__(self) -> None:
        self._counts = Counter([INPUT])

    def add(self, layer_name: str) -> str:
        """The name of the next call of a layer."""
        self._counts[layer_name] += 1
        number = self._counts[layer_name]
        return layer_name if number == 1 else f"{layer_name}:{number}"
