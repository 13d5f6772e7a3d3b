"""The range of every tensor of a file that is about to be rounded to int8."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import keras
import numpy as np

from compress.sensitivity import sensitivities, tensors_of

Range = tuple[float, float]
Tensors = Mapping[str, np.ndarray]
Ranges = Literal["loss", "minmax"]
NUM_MATCH_IMAGES = 2
MAX_DIFFERENCE = 1e-3
"""Of its largest value, between a tensor of the file and the tensor of the model that it holds."""


def file_ranges(
    run: Callable[[np.ndarray], Tensors],
    model: keras.Model,
    images: np.ndarray,
    *,
    ranges: Ranges,
) -> dict[str, Range]:
    """(low, high) of every tensor that a file computes.

    `minmax` covers every value that the images bring about. `loss` is the range in which rounding
    costs the answers least: it leaves out what hardly matters to them, be it large (x < -8 ahead of
    a swish), and keeps what does. Tensors that the model does not have keep their extremes.

    Args:
        run: gives all tensors of the float file for one image, (height, width, 3).
        model: what the file was written from.
        images: float32, (images, height, width, 3), from the training split.
    """
    found: dict[str, Range] = {}
    first: list[Tensors] = []
    for image in images:
        tensors = run(image)
        if len(first) < NUM_MATCH_IMAGES:
            first.append(tensors)
        for name, values in tensors.items():
            low, high = found.get(name, (0.0, 0.0))
            found[name] = min(low, float(values.min())), max(high, float(values.max()))
    if ranges == "minmax":
        return found
    known = sensitivities(model, images)
    for name, twin in _twins(first, model, images[: len(first)]).items():
        if twin in known:
            low, high, _ = known[twin].best
            found[name] = low, high
    return found


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
