"""Model files without a run: scored, timed, compared with a device, or asked about photos."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compress.run.pipeline import as_photos
from configs.artifacts import ending
from configs.errors import UserError
from configs.records import to_json
from configs.schema import Choice
from distill.data.manifest import Examples, describe_empty
from distill.data.scan import scan_folder
from eval.devices.probe import ModelFileError, open_model
from eval.devices.verify import Verification, spread, verify
from eval.images import evaluation_image
from eval.metadata import FileMetadata, SplitShares, expected_pixels, read_metadata
from eval.photo_files import UnreadablePhoto
from eval.pixels import Pixels
from eval.scoring.file_rows import References, file_row
from eval.scoring.predictions import file_probabilities, predict_file
from eval.timing.latency import Latency
from eval.timing.modes import Mode, sustain
from eval.timing.results import time_together

log = logging.getLogger("potstill")

NUM_WARMUP = 10
NUM_RUNS = 200


def score_files(
    files: list[Path], *, data: Path | None, pixels: Pixels | None = None, num_threads: int = 1
) -> list[dict[str, Any]]:
    """Rows as in report.json, scored on the test part of `data`.

    Raises:
        UserError: a file is missing or is no model, or its classes are not those of the folder.
    """
    described = {file: describe(file) for file in files}
    if data is None:
        raise UserError("--data is missing. Give a folder with one folder of photos per class.")
    rows: list[dict[str, Any]] = []
    tests: dict[SplitShares | None, Examples] = {}
    for file, metadata in described.items():
        split = metadata.split if metadata else None
        if split not in tests:
            shares = asdict(split) if split else {}
            tests[split] = scan_folder(data, **shares)["test"]
        examples = matched(tests[split], metadata, open_model(file).num_classes, file)
        photos = as_photos("test", examples)
        probs = file_probabilities(
            file, photos, num_threads=num_threads, pixels=expected_pixels(metadata, pixels)
        )
        row = file_row(
            file,
            recipe=metadata.recipe if metadata else None,
            parent=metadata.parent if metadata else None,
            probs=probs,
            photos=photos,
            references=References(),
            latency=[],
        )
        rows.append(to_json(row))
    return rows


def time_files(
    files: list[Path], device: Choice, *, num_threads: int = 1, num_runs: int = NUM_RUNS
) -> list[dict[str, Any]]:
    """Rows as in report.json with the latency alone, of the files that the device runs."""
    described = {file: describe(file) for file in files}
    latencies = time_together(
        files,
        device=device.name,
        options=device.options,
        num_threads=num_threads,
        num_warmup=NUM_WARMUP,
        num_runs=num_runs,
    )
    for file in (file for file in files if file not in latencies):
        log.warning("%s is left out: the device %s does not run it", file, device.name)
    return [latency_row(file, described[file], [latency]) for file, latency in latencies.items()]


def sustain_files(
    files: list[Path], mode: Mode, device: Choice, *, num_threads: int = 1
) -> dict[str, Any]:
    """What one of the modes measures, by the name of the file."""
    for file in files:
        describe(file)
    measurements = sustain(
        mode.able(files),
        mode.task,
        name=mode.name,
        device=device.name,
        options=device.options,
        num_threads=num_threads,
    )
    return {name: measurement.to_json() for name, measurement in measurements.items()}


def verify_files(
    files: list[Path],
    num_photos: int,
    device: Choice,
    *,
    data: Path | None,
    num_threads: int = 1,
) -> list[Verification]:
    """Whether files answer on a device as they do here, for photos of the test part of `data`."""
    for file in files:
        describe(file)
    if data is None:
        raise UserError("--data is missing. Give a folder with one folder of photos per class.")
    photos = spread(scan_folder(data)["test"].paths, num_photos)
    return verify(
        files, photos, device=device.name, options=device.options, num_threads=num_threads
    )


def latency_row(
    file: Path, metadata: FileMetadata | None, latency: list[Latency]
) -> dict[str, Any]:
    """A row of report.json with the timing alone."""
    from eval.footprint import file_bytes

    return {
        "name": file.name,
        "path": str(file),
        "format": ending(file)[1:],
        **_facts(metadata),
        "file_bytes": file_bytes(file),
        "latency": to_json(latency),
    }


def _facts(metadata: FileMetadata | None) -> dict[str, Any]:
    return {
        "recipe": metadata.recipe if metadata else None,
        "source": metadata.parent if metadata else None,
    }


def describe(file: Path) -> FileMetadata | None:
    """What a model file says of itself.

    Raises:
        UserError: it does not exist, or is not a model that can be run here.
    """
    if not file.exists():
        raise UserError(f"{file} does not exist. Expected a .tflite or .onnx file.")
    try:
        return read_metadata(file, open_model(file).num_classes)
    except ModelFileError as error:
        raise UserError(f"{file} is not a model that can be run here: {error}") from None


def matched(
    examples: Examples, metadata: FileMetadata | None, num_classes: int, file: Path
) -> Examples:
    """The same photos with the class numbers of the file.

    Raises:
        UserError: the file does not know a class of the folder, or their number differs.
    """
    if metadata and metadata.classes:
        unknown = sorted(set(examples.classes) - set(metadata.classes))
        if unknown:
            raise UserError(
                f"{file} knows {', '.join(metadata.classes[:20])}, and not "
                f"{', '.join(unknown[:20])}. Give it a folder with its own classes."
            )
        number = np.array([metadata.classes.index(name) for name in examples.classes], "int32")
        return Examples(
            examples.ids, examples.paths, number[examples.labels], list(metadata.classes)
        )
    if num_classes != len(examples.classes):
        raise UserError(
            f"{file} answers with {num_classes} classes, and the folder has "
            f"{len(examples.classes)} ({', '.join(examples.classes[:20])}). "
            "Give a folder with one folder per class of the model, in alphabetical order. "
            f"{describe_empty(examples.empty_classes)}".rstrip()
        )
    return examples


def predict_photos(
    file: Path, photos: list[Path], *, pixels: Pixels | None = None
) -> list[dict[str, Any]]:
    """The classes of each photo by falling probability."""
    metadata = describe(file)
    model = open_model(file)
    names = metadata.classes if metadata else [str(i) for i in range(model.num_classes)]
    images = []
    for photo in photos:
        if not photo.is_file():
            raise UserError(f"{photo} does not exist. Expected a photo.")
        try:
            images.append(evaluation_image(photo, model.input_shape[:2]))
        except UnreadablePhoto as error:
            raise UserError(f"this is no photo that can be read: {error}.") from None
    probs = predict_file(
        file, [image[None] for image in images], expected_pixels(metadata, pixels), 1, None
    )
    return [
        {
            "photo": str(photo),
            "answers": [
                {"class": names[i], "probability": float(row[i])} for i in np.argsort(-row)
            ],
        }
        for photo, row in zip(photos, probs, strict=True)
    ]
