"""Which operations of an int8 file stay in float, and what rounding the others costs."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

import keras
from pydantic import Field

from compress.graph.graph import PASSES_VALUES_ON, Graph
from compress.graph.inference import INPUT
from compress.graph.rewrites import ACTIVATION
from compress.int8.calibration import CalibratedModel
from compress.int8.ranges import FileRanges
from configs.errors import UserError
from configs.registry import nearest

KeepFloat = Annotated[float, Field(ge=0, lt=1)] | list[str]
"""Names of layers that stay in float; or the share of what rounding costs to be saved so."""
NUM_REPORTED = 10


class Operation(NamedTuple):
    """One operation of a float file, with the names of the tensors it reads and writes."""

    name: str
    """By which the quantizer of its format knows it."""
    inputs: list[str]
    outputs: list[str]


def float_operations(
    operations: Sequence[Operation], found: FileRanges, ready: CalibratedModel, keep: KeepFloat
) -> set[str]:
    """Names of the operations that stay in float.

    A tensor is left as it is where all that write and read it are in float.

    Args:
        keep: layers by name; or a share: the tensors whose rounding costs the answers most are
            left in float, the fewest that save this share of what rounding all of them costs.

    Raises:
        UserError: no operation computes a layer of that name.
    """
    if isinstance(keep, list):
        return _of_layers(operations, found, ready.model, keep)
    if not keep:
        return set()
    costs = found.costs(ready)
    allowed = (1 - keep) * sum(_by_layer(costs, found, costs).values())
    kept: set[str] = set()
    for tensor in sorted(costs, key=lambda name: -costs[name]):
        if sum(_by_layer(rounded(operations, kept), found, costs).values()) <= allowed:
            break
        kept |= {each.name for each in operations if tensor in (*each.inputs, *each.outputs)}
    return kept


def rounded(operations: Sequence[Operation], kept: set[str]) -> list[str]:
    """The tensors that an operation outside of `kept` reads or writes."""
    touched = [
        tensor
        for each in operations
        if each.name not in kept
        for tensor in (*each.inputs, *each.outputs)
    ]
    return list(dict.fromkeys(touched))


def report(
    operations: Sequence[Operation], found: FileRanges, ready: CalibratedModel, kept: set[str]
) -> dict[str, Any]:
    """For a file's manifest: what stays in float, and the layers whose rounding costs most.

    Returns:
        `kept_float`: layers; `rounding`: the dearest tensors, each by the `layer` that gives it,
        with the `nats` that rounding it is predicted to move the answers by.
    """
    costs = found.costs(ready)
    by_layer = _by_layer(rounded(operations, kept), found, costs)
    dearest = sorted(by_layer, key=lambda layer: -by_layer[layer])[:NUM_REPORTED]
    computed = _layers_of(operations, found, ready.model) if kept else {}
    return {
        "kept_float": sorted({layer for name in kept for layer in computed[name]}),
        "rounding": [{"layer": name, "nats": float(f"{by_layer[name]:.3g}")} for name in dearest],
    }


def _by_layer(
    tensors: Iterable[str], found: FileRanges, costs: dict[str, float]
) -> dict[str, float]:
    """Nats that rounding tensors of a file costs, by the tensor of the model that they hold.

    Several may hold the same one, reshaped: the first rounding leaves the others nothing to round.
    """
    by_layer: dict[str, float] = {}
    for name in tensors:
        if name in costs:
            layer = found.twins[name]
            by_layer[layer] = max(by_layer.get(layer, 0.0), costs[name])
    return by_layer


def _of_layers(
    operations: Sequence[Operation], found: FileRanges, model: keras.Model, names: list[str]
) -> set[str]:
    if not names:
        return set()
    computed = _layers_of(operations, found, model)
    known = {layer for layers in computed.values() for layer in layers}
    for name in names:
        if name not in known:
            raise UserError(
                f"keep_float names {name!r}, and no operation of the file computes a layer of "
                f"that name.{nearest(name, known)}"
            )
    return {name for name, layers in computed.items() if layers & set(names)}


def _layers_of(
    operations: Sequence[Operation], found: FileRanges, model: keras.Model
) -> dict[str, set[str]]:
    """The layers that each operation computes, by the operation's name.

    A converter makes one operation of several layers and several of one. The layers of an operation
    lie between the tensors that file and model both have; one whose result the model does not have
    (the gate of a swish) belongs to the layers of those who read it.
    """
    layers = _layers_behind(model, set(found.twins.values()))
    readers: dict[str, set[str]] = {}
    computed: dict[str, set[str]] = {}
    for each in reversed(operations):
        twins = [found.twins[tensor] for tensor in each.outputs if tensor in found.twins]
        own = [layers[twin] for twin in twins] or [
            readers.get(name, set()) for name in each.outputs
        ]
        computed[each.name] = set().union(*own)
        for tensor in each.inputs:
            readers.setdefault(tensor, set()).update(computed[each.name])
    return computed


def _layers_behind(model: keras.Model, known: set[str]) -> dict[str, set[str]]:
    """For each of the tensors in `known` the layers between it and the ones before it in `known`.

    Tensors are called as by `tensors_of`.
    """
    behind: dict[str, set[str]] = {}
    unknown: dict[int, set[str]] = {}
    for use in Graph.of(model).uses:
        name, again = use.layer.name, 1
        while name in behind:
            again += 1
            name = f"{use.layer.name}:{again}"
        own = set() if isinstance(use.layer, PASSES_VALUES_ON) else {use.layer.name}
        before = [unknown.get(id(tensor), set()) for tensor in use.inputs]
        behind[name] = {layer.removesuffix(ACTIVATION) for layer in own}.union(*before)
        if name not in known:
            unknown[id(use.output)] = behind[name]
    return {INPUT: set(), **behind}
