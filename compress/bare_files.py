"""Model files without a run: scored, timed, or compared with a device."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.foreign.contracts import matched, settle_file
from compress.recipes.runtimes import runtime_of
from compress.run.pipeline import as_photos
from configs.artifacts import ending
from configs.errors import UserError
from configs.records import to_json
from configs.schema.choice import Choice
from distill.data.manifest import Examples
from distill.data.scan import scan_folder
from eval.contract.choice import NO_CHOICE, ContractChoice
from eval.contract.file_contract import describe, open_under
from eval.devices.verify import Verification, spread, verify
from eval.metadata import FileMetadata, SplitShares
from eval.scoring.file_rows import References, file_row
from eval.scoring.predictions import file_probabilities
from eval.timing.latency import Latency
from eval.timing.modes import Mode, sustain
from eval.timing.results import time_together

log = logging.getLogger("potstill")

NUM_WARMUP = 10
NUM_RUNS = 200


def score_files(
    files: list[Path],
    *,
    data: Path | None,
    choice: ContractChoice = NO_CHOICE,
    num_threads: int = 1,
) -> list[dict[str, Any]]:
    """Rows as in report.json, scored on the test part of `data`.

    Raises:
        UserError: a file is missing or is no model, or its classes are not those of the folder.
    """
    output = choice.statement.output_layer
    described = {file: describe(file, output) for file in files}
    if data is None:
        raise UserError("--data is missing. Give a folder with one folder of photos per class.")
    rows: list[dict[str, Any]] = []
    scans: dict[SplitShares | None, dict[str, Examples]] = {}
    for file, metadata in described.items():
        split = metadata.split if metadata else None
        if split not in scans:
            shares = asdict(split) if split else {}
            scans[split] = scan_folder(data, **shares)
        contract = settle_file(file, metadata, choice, scans[split])
        num_classes = open_under(file, contract).num_classes
        examples = matched(scans[split]["test"], contract.labels, num_classes, file)
        photos = as_photos("test", examples)
        probs = file_probabilities(file, photos, num_threads=num_threads, contract=contract)
        row = file_row(
            file,
            recipe=metadata.recipe if metadata else None,
            parent=metadata.parent if metadata else None,
            probs=probs,
            photos=photos,
            references=References(),
            latency=[],
            # Of a file that another tool wrote or changed, the entry may be out of date.
            runtime=runtime_of(file) if metadata else None,
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
    choice: ContractChoice = NO_CHOICE,
    num_threads: int = 1,
) -> list[Verification]:
    """Whether files answer on a device as they do here, for photos of the test part of `data`."""
    for file in files:
        describe(file)
    if data is None:
        raise UserError("--data is missing. Give a folder with one folder of photos per class.")
    photos = spread(scan_folder(data)["test"].paths, num_photos)
    return verify(
        files,
        photos,
        device=device.name,
        options=device.options,
        num_threads=num_threads,
        options_of_contract=choice.statement,
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
        "runtime": to_json(runtime_of(file)) if metadata else None,
        "file_bytes": file_bytes(file),
        "latency": to_json(latency),
    }


def _facts(metadata: FileMetadata | None) -> dict[str, Any]:
    return {
        "recipe": metadata.recipe if metadata else None,
        "source": metadata.parent if metadata else None,
    }
