"""The choice of int8 ranges: (low, high) for every tensor of a file that will be rounded."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import keras
import numpy as np
from pydantic import Field

from compress.graph.gradients import tensors_of
from compress.graph.preprocessing import Offset
from compress.graph.tensor_names import INPUT
from compress.int8.calibration import CalibratedModel
from compress.int8.histogram import Histogram, Range, codes, count_codes

Tensors = Mapping[str, np.ndarray]
Percentile = Annotated[float, Field(ge=50, le=100)]
Ranges = (
    Literal["loss", "minmax", "mse"]
    | Annotated[dict[Literal["percentile"], Percentile], Field(min_length=1)]
)
"""How ranges are chosen; a percentile is written `{percentile: 99.99}`."""
NUM_MATCH_IMAGES = 2
MAX_DIFFERENCE = 1e-3
"""Between a tensor of a file and the equal tensor of the model, as a share of its largest value."""
HEADROOM = 2.0
"""How much a tensor may cost in a range wider than its best: this times the mean cost of all."""
BYTE_RANGE = (0.0, 255.0)
"""The range of pixels as photos hold them. In steps of 1 they are not rounded at all."""


@dataclass(frozen=True)
class FileRanges:
    """The ranges of the tensors of a file, and which tensors the model has too.

    Attributes:
        ranges: (low, high) by tensor of the file.
        twins: the tensor of the model that has the same values, by tensor of the file.
    """

    ranges: dict[str, Range]
    twins: dict[str, str]

    def costs(self, calibrated: CalibratedModel) -> dict[str, float]:
        """Nats that it costs to round each tensor of the file within its range.

        Only tensors that the model has too are in it. Pixels in steps of 1 cost nothing.
        """
        sensitivities = calibrated.sensitivities
        costs = {
            name: sensitivities[twin].cost_within(*self.ranges[name])
            for name, twin in self.twins.items()
            if twin in sensitivities
        }
        exact = _ranges_of_bytes(calibrated.model)
        is_exact = {name for name in costs if self.ranges[name] == exact.get(self.twins[name])}
        return costs | dict.fromkeys(is_exact, 0.0)


class TensorReader(Protocol):
    """Runs a float file on one image and returns its tensors by name, all or some of them."""

    def __call__(self, image: np.ndarray, names: Collection[str] | None = None) -> Tensors: ...


def choose_ranges(read: TensorReader, calibrated: CalibratedModel, *, ranges: Ranges) -> FileRanges:
    """(low, high) of every tensor that a file computes.

    `loss` takes the range in which rounding costs the answers least. It leaves out values that
    hardly matter, however large (x < -8 before a swish), and keeps those that do. If that range is
    cheap it is widened (`HEADROOM`), because other photos may need more room. Tensors that the
    model does not have get the range of all their values.

    The others look at the values alone. `minmax` covers all values of the calibration images,
    `mse` has the smallest squared error of rounding and clipping, and a percentile leaves out the
    values beyond it.

    Args:
        read: runs the float file on an image, (height, width, 3).
        calibrated: the model that the file was written from.
    """
    first = [read(image) for image in calibrated.images[:NUM_MATCH_IMAGES]]
    twins = find_twins(first, calibrated.model, calibrated.images[: len(first)])
    chosen = _cheapest_ranges(calibrated, twins) if ranges == "loss" else {}
    others = first[0].keys() - chosen.keys()
    del first  # it holds all tensors of the file, twice
    images = calibrated.images if others else ()
    chosen |= ranges_of_values((read(image, others) for image in images), ranges)
    if calibrated.of_bytes:
        exact = _ranges_of_bytes(calibrated.model)
        chosen |= {name: exact[twin] for name, twin in twins.items() if twin in exact}
    return FileRanges(chosen, twins)


def _ranges_of_bytes(model: keras.Model) -> dict[str, Range]:
    """The ranges in which bytes are exact in int8, by tensor of a model that reads bytes."""
    low, high = BYTE_RANGE
    ranges = {INPUT: BYTE_RANGE}
    for layer in model.layers:
        if isinstance(layer, Offset):
            offset = layer.offset[0]
            if np.allclose(layer.offset, np.round(offset), rtol=0, atol=1e-3):
                ranges[layer.name] = low + offset, high + offset
    return ranges


def _cheapest_ranges(calibrated: CalibratedModel, twins: dict[str, str]) -> dict[str, Range]:
    sensitivities = calibrated.sensitivities
    costs = [sensitivity.cost for sensitivity in sensitivities.values()]
    max_cost = HEADROOM * float(np.mean(costs)) if costs else 0.0
    return {
        name: sensitivities[twin].widest(max_cost)
        for name, twin in twins.items()
        if twin in sensitivities
    }


def ranges_of_values(runs: Iterable[Tensors], ranges: Ranges) -> dict[str, Range]:
    """Ranges of the tensors of some runs from their values; with `loss` the extremes."""
    counts: dict[str, np.ndarray] = {}
    extremes: dict[str, Range] = {}
    needs_counts = ranges not in ("loss", "minmax")
    for tensors in runs:
        for name, values in tensors.items():
            low, high = extremes.get(name, (0.0, 0.0))
            extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
            if needs_counts:
                counts[name] = count_codes(codes(values)) + counts.get(name, 0)
    if not needs_counts:
        return extremes
    histograms = {name: Histogram(counts[name], *extremes[name]) for name in extremes}
    if isinstance(ranges, dict):
        share = ranges["percentile"]
        return {name: histogram.percentile(share) for name, histogram in histograms.items()}
    return {name: histogram.least_squares() for name, histogram in histograms.items()}


def find_twins(runs: Iterable[Tensors], model: keras.Model, images: np.ndarray) -> dict[str, str]:
    """For the tensors of a file, the tensor of its model that has the same values.

    Names are no help: converters fold, fuse and rename.

    Args:
        runs: the tensors of the file for each of the images.
    """
    by_size: dict[int, list[tuple[str, Any]]] = {}
    for name, tensor in tensors_of(model, images).items():
        values = np.reshape(tensor, (len(images), -1))
        by_size.setdefault(values.shape[1], []).append((name, values))
    twins = {}
    for name, values in _stacked(runs).items():
        for twin, expected in by_size.get(values.shape[1], []):
            max_difference = MAX_DIFFERENCE * max(float(np.abs(expected).max()), 1e-6)
            if np.abs(values - expected).max() <= max_difference:
                twins[name] = twin  # the first one; later layers may copy its values
                break
    return twins


def _stacked(runs: Iterable[Tensors]) -> dict[str, np.ndarray]:
    """The tensors of all runs by name, (runs, values)."""
    tensors = list(runs)
    return {name: np.stack([np.ravel(run[name]) for run in tensors]) for name in tensors[0]}
