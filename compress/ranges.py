"""The range of every tensor of a file that is about to be rounded to int8."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from compress.calibration import Calibrated
from compress.graph import INPUT
from compress.sensitivity import tensors_of

Range = tuple[float, float]
Tensors = Mapping[str, np.ndarray]
Ranges = Literal["loss", "minmax"]
NUM_MATCH_IMAGES = 2
MAX_DIFFERENCE = 1e-3
"""Of its largest value, between a tensor of the file and the tensor of the model that it holds."""
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

    def costs(self, ready: Calibrated) -> dict[str, float]:
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


def file_ranges(
    run: Callable[[np.ndarray], Tensors], ready: Calibrated, *, ranges: Ranges
) -> FileRanges:
    """(low, high) of every tensor that a file computes.

    `minmax` covers every value that the images bring about. `loss` is the range in which rounding
    costs the answers least: it leaves out what hardly matters to them, be it large (x < -8 ahead of
    a swish), and keeps what does. Tensors that the model does not have keep their extremes.

    Args:
        run: gives all tensors of the float file for one image, (height, width, 3).
        ready: what the file was written from.
    """
    found: dict[str, Range] = {}
    first: list[Tensors] = []
    for image in ready.images:
        tensors = run(image)
        if len(first) < NUM_MATCH_IMAGES:
            first.append(tensors)
        for name, values in tensors.items():
            low, high = found.get(name, (0.0, 0.0))
            found[name] = min(low, float(values.min())), max(high, float(values.max()))
    twins = _twins(first, ready.model, ready.images[: len(first)])
    if ranges == "loss":
        known = ready.sensitivities
        found |= {name: known[twin].best[:2] for name, twin in twins.items() if twin in known}
    if ready.of_bytes:
        found |= {name: BYTES for name, twin in twins.items() if twin == INPUT}
    return FileRanges(found, twins)


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
