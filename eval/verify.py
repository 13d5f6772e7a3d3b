"""Whether a file answers on a device what it answers here."""

from pathlib import Path
from typing import Any

import numpy as np

from eval.accuracy import OWN_PIXELS, Pixels
from eval.devices import Device
from eval.images import evaluation_image
from eval.probe import open_model


def verify(
    device: Device, file: Path, photos: list[Path], *, pixels: Pixels = OWN_PIXELS, num_threads: int
) -> dict[str, Any]:
    """Some photos through one file there and here.

    Returns:
        n; argmax_equal, on how many the most likely class is the same; max_abs_diff of all
        answers.

    Raises:
        StepFailed: the file cannot be run there.
    """
    model = open_model(file, num_threads)
    size = model.input_shape[:2]
    session = device.open(file, num_threads=num_threads)
    try:
        images = [pixels.apply(evaluation_image(photo, size)) for photo in photos]
        there = np.stack([session.predict(image) for image in images])
        session.close()
    finally:
        session.kill()
    here = model.predict(np.stack(images))
    return {
        "n": len(photos),
        "argmax_equal": int((there.argmax(axis=1) == here.argmax(axis=1)).sum()),
        "max_abs_diff": float(np.abs(there - here).max()),
    }
