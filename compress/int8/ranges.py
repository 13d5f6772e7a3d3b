"""The range of every tensor of a file that is about to be rounded to int8."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import keras
import numpy as np
from pydantic import Field

from compress.graph.inference import INPUT
from compress.int8.calibration import CalibratedModel
from compress.int8.histogram import (
    Histogram,
    Range,
    codes,
    counted,
)
from compress.int8.sensitivity import tensors_of

Tensors = Mapping[str, np.ndarray]
Percentile = Annotated[float, Field(ge=50, le=100)]
Ranges = (
    Literal["loss", "minmax", "mse"]
    | Annotated[dict[Literal["percentile"], Percentile], Field(min_length=1)]
)
"""How the range of a tensor is chosen; a percentile as `{percentile: 99.99}`."""
NUM_MATCH_IMAGES = 2
MAX_DIFFERENCE = 1e-3
"""Of its largest value, between a tensor of the file and the tensor of the model that it holds."""
HEADROOM = 2.0
"""Times what the mean tensor costs in its best range: so much a tensor may cost in a wider one."""
BYTES = (0.0, 255.0)
"""The range of pixels as photos hold them: in steps of 1 nothing of them is rounded."""


@dataclass(frozen=True)
class FileRanges:
    """What is known of the tensors of a file.

    Attributes:
        ranges: (low, high) by tensor of the file.
        twins: the tensor of the model that has the same values, by tensor of the file.
    """

    ranges: dict[str, Range]
    twins: dict[str, str]

    def costs(self, ready: CalibratedModel) -> dict[str, float]:
        """Nats that the answers change by when a tensor of the file is rounded within its range.

        Of those that the model has, too; pixels in steps of 1 cost nothing.
        """
        known = ready.sensitivities
        costs = {
            name: known[twin].cost_within(*self.ranges[name])
            for name, twin in self.twins.items()
            if twin in known
        }
        pixels = [n for n in costs if self.twins[n] == INPUT and self.ranges[n] == BYTES]
        return costs | dict.fromkeys(pixels, 0.0)


class Run(Protocol):
    """Gives tensors of a float file by name, all or some of them, for one image."""

    def __call__(self, image: np.ndarray, names: Collection[str] | None = None) -> Tensors: ...


def file_ranges(run: Run, ready: CalibratedModel, *, ranges: Ranges) -> FileRanges:
    """(low, high) of every tensor that a file computes.

    `loss` is the range in which rounding costs the answers least: it leaves out what hardly matters
    to them, be it large (x < -8 ahead of a swish), and keeps what does. Where that costs little
    (`HEADROOM`) it is wider, for other photos may need it. Tensors that the model does not have
    keep their extremes. The others look at values alone: `minmax` covers all that the images bring
    about, `mse` has the least squared error of rounding and clipping, a percentile leaves out what
    is beyond it.

    Args:
        run: runs the float file; images are (height, width, 3).
        ready: what the file was written from.
    """
    first = [run(image) for image in ready.images[:NUM_MATCH_IMAGES]]
    twins = _twins(first, ready.model, ready.images[: len(first)])
    known = ready.sensitivities if ranges == "loss" else {}
    mean = float(np.mean([each.cost for each in known.values()])) if known else 0.0
    wide = HEADROOM * mean
    found = {name: known[twin].widest(wide) for name, twin in twins.items() if twin in known}
    others = first[0].keys() - found.keys()
    del first  # all tensors of a file, twice
    images = ready.images if others else ()
    found |= _by_values((run(image, others) for image in images), ranges)
    if ready.of_bytes:
        found |= {name: BYTES for name, twin in twins.items() if twin == INPUT}
    return FileRanges(found, twins)


def _by_values(runs: Iterable[Tensors], ranges: Ranges) -> dict[str, Range]:
    """Ranges of the tensors of some runs; with `loss` their extremes."""
    counts: dict[str, Any] = {}
    extremes: dict[str, Range] = {}
    by_extremes = ranges in ("loss", "minmax")
    for tensors in runs:
        for name, values in tensors.items():
            low, high = extremes.get(name, (0.0, 0.0))
            extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
            if not by_extremes:
                counts[name] = counts.get(name, 0) + counted(codes(values))
    if by_extremes:
        return extremes
    seen = {name: Histogram(counts[name], *extremes[name]) for name in extremes}
    if isinstance(ranges, dict):
        return {name: each.percentile(ranges["percentile"]) for name, each in seen.items()}
    return {name: each.least_squares() for name, each in seen.items()}


def _twins(of_file: Iterable[Tensors], model: keras.Model, images: np.ndarray) -> dict[str, str]:
    """For tensors of a file the tensor of its model that has the same values.

    Names do not tell: converters fold, fuse and rename.
    """
    by_size: dict[int, list[tuple[str, Any]]] = {}
    for name, tensor in tensors_of(model, images).items():
        values = np.reshape(tensor, (len(images), -1))
        by_size.setdefault(values.shape[1], []).append((name, values))
    twins = {}
    for name, values in _stacked(of_file).items():
        for other, expected in by_size.get(values.shape[1], []):
            allowed = MAX_DIFFERENCE * max(float(np.abs(expected).max()), 1e-6)
            if np.abs(values - expected).max() <= allowed:
                twins[name] = other  # the first: what is copied on has the same values
                break
    return twins


def _stacked(of_file: Iterable[Tensors]) -> dict[str, np.ndarray]:
    runs = list(of_file)
    return {name: np.stack([np.ravel(each[name]) for each in runs]) for name in runs[0]}
