"""Precision by layer: which operations of an int8 file stay in float, and what rounding costs."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field

from compress.graph.classifier import PASSES_VALUES_ON
from compress.graph.layer_graph import LayerGraph
from compress.graph.tensor_names import INPUT
from compress.int8.calibration import CalibratedModel
from compress.int8.ranges import FileRanges
from configs.errors import UserError
from configs.registry import nearest

KeepFloat = Annotated[float, Field(ge=0, lt=1)] | list[str]
"""What stays in float: layers by name, or the share of the cost of rounding to be saved so."""
NUM_REPORTED = 10


class Operation(NamedTuple):
    """One operation of a float file.

    Attributes:
        name: the name by which the quantizer of the file format knows it.
        inputs: names of the tensors that it reads, constants left out.
        outputs: names of the tensors that it writes.
    """

    name: str
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class RoundingCost:
    """What it costs to round one tensor.

    Attributes:
        layer: the layer that returns the tensor.
        nats: how far rounding is predicted to move the answers.
    """

    layer: str
    nats: float


@dataclass(frozen=True)
class Precision:
    """What the manifest of an int8 file says about its precision.

    Attributes:
        equalized: the layers at whose outputs channels are scaled; None with `equalize: off`.
        kept_float: the layers that stay in float; None if the cost of rounding was not measured.
        rounding: the tensors that cost most, the most expensive first; None likewise.
    """

    equalized: list[str] | None = None
    kept_float: list[str] | None = None
    rounding: list[RoundingCost] | None = None


def choose_float_operations(
    operations: Sequence[Operation],
    file_ranges: FileRanges,
    calibrated: CalibratedModel,
    keep: KeepFloat,
) -> set[str]:
    """Names of the operations that stay in float.

    A tensor is not rounded if all operations that write and read it are in float.

    Args:
        keep: names of layers; or a share. For a share, the most expensive tensors are left in
            float until this share of the cost of rounding all tensors is saved.

    Raises:
        UserError: no operation computes a layer of that name.
    """
    if isinstance(keep, list):
        return _operations_of_layers(operations, file_ranges, calibrated, keep)
    if not keep:
        return set()
    costs = file_ranges.costs(calibrated)
    max_cost = (1 - keep) * sum(_cost_by_layer(costs, file_ranges, costs).values())
    in_float: set[str] = set()
    for tensor in sorted(costs, key=lambda name: -costs[name]):
        rounded = rounded_tensors(operations, in_float)
        if sum(_cost_by_layer(rounded, file_ranges, costs).values()) <= max_cost:
            break
        in_float |= {op.name for op in operations if tensor in (*op.inputs, *op.outputs)}
    return in_float


def rounded_tensors(operations: Sequence[Operation], in_float: Collection[str]) -> list[str]:
    """The tensors that an operation outside of `in_float` reads or writes."""
    tensors = [
        tensor
        for operation in operations
        if operation.name not in in_float
        for tensor in (*operation.inputs, *operation.outputs)
    ]
    return list(dict.fromkeys(tensors))


def describe_precision(
    operations: Sequence[Operation],
    file_ranges: FileRanges,
    calibrated: CalibratedModel,
    in_float: set[str],
    *,
    is_measured: bool,
) -> Precision:
    """What was equalized, which layers stay in float, and the layers whose rounding costs most.

    Args:
        is_measured: whether the cost of rounding was needed for the file. It takes a while.
    """
    if not is_measured:
        return Precision(calibrated.equalized)
    costs = file_ranges.costs(calibrated)
    rounded = rounded_tensors(operations, in_float)
    by_layer = _cost_by_layer(rounded, file_ranges, costs)
    most_expensive = sorted(by_layer, key=lambda layer: -by_layer[layer])[:NUM_REPORTED]
    computed = layers_of_operations(operations, file_ranges, calibrated) if in_float else {}
    return Precision(
        equalized=calibrated.equalized,
        kept_float=sorted({layer for name in in_float for layer in computed[name]}),
        rounding=[RoundingCost(layer, float(f"{by_layer[layer]:.3g}")) for layer in most_expensive],
    )


def _cost_by_layer(
    tensors: Iterable[str], file_ranges: FileRanges, costs: dict[str, float]
) -> dict[str, float]:
    """Nats that it costs to round tensors of a file, by the tensor of the model that they hold.

    Several may hold the same one in other shapes. It is rounded only once, so one of them counts.
    """
    by_layer: dict[str, float] = {}
    for name in tensors:
        if name in costs:
            layer = file_ranges.twins[name]
            by_layer[layer] = max(by_layer.get(layer, 0.0), costs[name])
    return by_layer


def _operations_of_layers(
    operations: Sequence[Operation],
    file_ranges: FileRanges,
    calibrated: CalibratedModel,
    names: list[str],
) -> set[str]:
    if not names:
        return set()
    computed = layers_of_operations(operations, file_ranges, calibrated)
    all_layers = {layer for layers in computed.values() for layer in layers}
    for name in names:
        if calibrated.layer_of(name) not in all_layers:
            raise UserError(
                f"keep_float names {name!r}, and no operation of the file computes a layer of "
                f"that name.{nearest(name, all_layers)}"
            )
    chosen = {calibrated.layer_of(name) for name in names}
    return {name for name, layers in computed.items() if layers & chosen}


def layers_of_operations(
    operations: Sequence[Operation], file_ranges: FileRanges, calibrated: CalibratedModel
) -> dict[str, set[str]]:
    """The layers that each operation computes, by the name of the operation.

    A converter makes one operation of several layers, and several of one. The layers of an
    operation are those between the tensors that both the file and the model have. An operation
    whose output the model does not have, such as the gate of a swish, belongs to the layers of the
    operations that read it.
    """
    layers = _layers_before(calibrated, set(file_ranges.twins.values()))
    of_readers: dict[str, set[str]] = {}
    computed: dict[str, set[str]] = {}
    for operation in reversed(operations):
        twins = [file_ranges.twins[t] for t in operation.outputs if t in file_ranges.twins]
        own = [layers[twin] for twin in twins]
        own = own or [of_readers.get(name, set()) for name in operation.outputs]
        computed[operation.name] = set().union(*own)
        for tensor in operation.inputs:
            of_readers.setdefault(tensor, set()).update(computed[operation.name])
    return computed


def _layers_before(calibrated: CalibratedModel, shared: set[str]) -> dict[str, set[str]]:
    """For every tensor of the model, the layers between it and the shared tensors before it.

    Args:
        shared: names of the tensors that the file has too, as in `tensors_of`.
    """
    before: dict[str, set[str]] = {INPUT: set()}
    since_shared: dict[int, set[str]] = {}
    for call in LayerGraph.of(calibrated.model).calls:
        own = set() if isinstance(call.layer, PASSES_VALUES_ON) else {call.layer.name}
        earlier = [since_shared.get(id(tensor), set()) for tensor in call.inputs]
        layers = {calibrated.layer_of(layer) for layer in own}.union(*earlier)
        before[call.name] = layers
        if call.name not in shared:
            since_shared[id(call.output)] = layers
    return before
