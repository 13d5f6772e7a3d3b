"""A graph of layers that cannot be built is an error; tf_keras would try for ever."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def circles_are_errors() -> Iterator[None]:
    """Inside, tf_keras raises a ValueError for layers that wait for each other.

    It goes over the layers of a model again and again, and calls those whose inputs are ready. A
    damaged file may name an input that never is. tf_keras warns of it in a comment of
    `tf_keras.src.engine.functional.reconstruct_from_config`; Keras 3 raises an error of its own.
    """
    from tf_keras.src.engine import functional

    reconstruct = functional.reconstruct_from_config

    def watched(config: Any, custom_objects: Any = None, created_layers: Any = None) -> Any:
        made = _Made(created_layers or {})
        layers = _Layers(config["layers"], made)
        return reconstruct({**config, "layers": layers}, custom_objects, made)

    functional.reconstruct_from_config = watched
    try:
        yield
    finally:
        functional.reconstruct_from_config = reconstruct


class _Made(OrderedDict):
    """The layers that tf_keras has made, by name. It would replace a false, that is empty, one."""

    def __bool__(self) -> bool:
        return True


class _Layers(list):
    """The layers of a config. The first round over them makes them; each other one calls some."""

    def __init__(self, layers: list[Any], made: _Made) -> None:
        super().__init__(layers)
        self._made = made
        self._calls: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        self._calls.append(sum(len(layer._inbound_nodes) for layer in self._made.values()))
        if len(self._calls) > 2 and self._calls[-1] == self._calls[-2]:
            raise ValueError("layers wait for each other, or for an output that never comes")
        return super().__iter__()
