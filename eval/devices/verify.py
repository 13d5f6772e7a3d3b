"""Whether files give the same answers on a device as here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.artifacts import ending
from configs.contract import Statement
from eval.contract.file_contract import file_contract
from eval.devices.probe import open_model
from eval.devices.registry import DEVICES, Device, Options, device_label
from eval.images import evaluation_image
from eval.metadata import read_metadata


@dataclass(frozen=True)
class Verification:
    """How the answers of one file on a device compare with those here.

    Attributes:
        name: of the file.
        device: label of the device.
        n: photos.
        argmax_equal: photos for which the most likely class is the same.
        max_abs_diff: the largest difference between any two answers.
    """

    name: str
    device: str
    n: int
    argmax_equal: int
    max_abs_diff: float


def verify(
    files: list[Path],
    photos: list[Path],
    *,
    device: str,
    options: Options,
    num_threads: int = 1,
    options_of_contract: Statement | None = None,
) -> list[Verification]:
    """Put photos through files on a device and here, for every file that the device executes.

    Args:
        options_of_contract: what the user says of the files.

    Raises:
        StepFailed: a file cannot be executed there.
    """
    label = device_label(device, options)
    with DEVICES[device](**options) as machine:
        if machine.reports_means:  # such a device reports no answers either
            return []
        able = [file for file in files if ending(file) in machine.formats]
        return [
            _compare(
                machine,
                label,
                file,
                photos,
                statement=options_of_contract,
                num_threads=num_threads,
            )
            for file in able
        ]


def _compare(
    device: Device,
    label: str,
    file: Path,
    photos: list[Path],
    *,
    statement: Statement | None,
    num_threads: int,
) -> Verification:
    model = open_model(file, num_threads)
    size = model.input_shape[:2]
    contract = file_contract(
        file,
        read_metadata(file, model.num_classes),
        num_channels=model.input_shape[2],
        num_classes=model.num_classes,
        answers=model.answers,
        options=statement,
    )
    images = contract.apply(np.stack([evaluation_image(photo, size, contract) for photo in photos]))
    session = device.open(file, num_threads=num_threads)
    try:
        there = np.stack([session.predict(image) for image in images])
        session.close()
    except BaseException:
        session.kill()
        raise
    here = model.predict(images)
    return Verification(
        name=file.name,
        device=label,
        n=len(photos),
        argmax_equal=int((there.argmax(axis=1) == here.argmax(axis=1)).sum()),
        max_abs_diff=float(np.abs(there - here).max()),
    )


def spread(photos: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the photos, spread evenly over the classes that they are sorted by."""
    places = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    return [photos[place] for place in places]
