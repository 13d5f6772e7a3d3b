"""`evaluate latency --verify N`: whether files answer on a device what they answer here."""

from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.records import to_json
from configs.run_dir import RunDir
from configs.schema import Choice, Experiment
from eval.devices.registry import DEVICES
from eval.devices.verify import Verification, verify

Shown = tuple[dict[str, Any], str]
"""What is told, for programs and for people."""


def on_wheels(devices: list[Choice], wheels: Path | None) -> list[Choice]:
    """The devices, those that take some with the wheels of `--wheels`.

    Raises:
        UserError: none takes any, or the folder has none.
    """
    if wheels is None:
        return devices
    if not any(wheels.expanduser().glob("*.whl")):
        raise UserError(f"--wheels {wheels}: no .whl file there. Collect some with pip download.")
    takes = {device.name: "wheels" in DEVICES.options(device.name) for device in devices}
    if not any(takes.values()):
        raise UserError(f"--wheels has no effect on {', '.join(takes)}: nothing is put there.")
    given = {"wheels": str(wheels.expanduser().resolve())}
    return [
        Choice(name=each.name, options={**each.options, **given}) if takes[each.name] else each
        for each in devices
    ]


def verify_files(
    files: list[Path],
    num_photos: int,
    data: Path | None,
    *,
    device: str,
    options: dict[str, Any],
    num_threads: int,
) -> Shown:
    """Bare files on one device, with photos of the test part of `data`."""
    from distill.data.scan import scan_folder

    if data is None:
        raise UserError("--data is missing: the folder of class folders to take photos from.")
    photos = _some(scan_folder(data)["test"].paths, num_photos)
    return _shown(verify(files, photos, device=device, options=options, num_threads=num_threads))


def verify_run(
    run: RunDir, experiment: Experiment, num_photos: int, devices: list[Choice], *, target: str
) -> Shown:
    """The files of a run on some devices, with some of its test photos."""
    from compress.pipeline import (
        NEEDS,
        ensure,
        file_names,
        run_photos,
    )

    ensure(run, experiment, NEEDS["latency"], target)
    files = [run.file(name) for name in file_names(experiment)]
    photos = _some(run_photos(run).test.paths, num_photos)
    rows: list[Verification] = []
    for device in devices:
        rows += verify(
            files,
            photos,
            device=device.name,
            options=device.options,
            num_threads=experiment.evaluate.num_threads,
        )
    return _shown(rows)


def _some(photos: list[Path], count: int) -> list[Path]:
    """So many of all, evenly spread over the classes they are sorted by."""
    places = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    return [photos[place] for place in places]


def _shown(rows: list[Verification]) -> Shown:
    if not rows:
        raise UserError(
            "these devices report no answers, only times. Name another device with --device."
        )
    lines = [
        f"{row.name} on {row.device}: the same class for {row.argmax_equal} of {row.n} "
        f"photos, answers at most {row.max_abs_diff:.2g} apart"
        for row in rows
    ]
    return {"verified": to_json(rows)}, "\n".join(lines)
