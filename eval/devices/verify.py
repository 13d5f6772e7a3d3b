"""Whether files answer on a device what they answer here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.devices.probe import open_model
from eval.devices.registry import DEVICES, Device, device_label
from eval.images import evaluation_image
from eval.metadata import expected_pixels, read_metadata
from eval.pixels import Pixels


def verify(
    files: list[Path],
    photos: list[Path],
    *,
    device: str,
    options: Mapping[str, Any],
    num_threads: int = 1,
    pixels: Pixels | None = None,
) -> list[dict[str, Any]]:
    """Some photos through each file on a device and here.

    Args:
        pixels: what the files expect, where they do not say it themselves.

    Returns:
        A row for each file that the device runs: name, device, n, argmax_equal (on how many the
        most likely class is the same) and max_abs_diff (of all answers).

    Raises:
        StepFailed: a file cannot be run there.
    """
    label = device_label(device, options)
    with DEVICES[device](**options) as there:
        if there.tells_means:  # and no answers
            return []
        able = [file for file in files if file.suffix.lower() in there.formats]
        return [
            {
                "name": file.name,
                "device": label,
                **_compared(
                    there, file, photos, expected_pixels(read_metadata(file), pixels), num_threads
                ),
            }
            for file in able
        ]


def _compared(
    device: Device, file: Path, photos: list[Path], pixels: Pixels, num_threads: int
) -> dict[str, Any]:
    model = open_model(file, num_threads)
    size = model.input_shape[:2]
    images = np.stack([pixels.apply(evaluation_image(photo, size)) for photo in photos])
    session = device.open(file, num_threads=num_threads)
    try:
        there = np.stack([session.predict(image) for image in images])
        session.close()
    except BaseException:
        session.kill()
        raise
    here = model.predict(images)
    return {
        "n": len(photos),
        "argmax_equal": int((there.argmax(axis=1) == here.argmax(axis=1)).sum()),
        "max_abs_diff": float(np.abs(there - here).max()),
    }
