"""`evaluate latency --verify N`: whether files answer on a device what they answer here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema import Experiment
from eval.devices import DEVICES
from eval.verify import verify

Shown = tuple[dict[str, Any], str]
"""What is told, for programs and for people."""


def on_wheels(
    device: tuple[str, Mapping[str, Any]], wheels: Path | None
) -> tuple[str, dict[str, Any]]:
    """A device with the wheels of `--wheels`, if there are some.

    Raises:
        UserError: it takes none, or the folder has none.
    """
    name, options = device
    if wheels is None:
        return name, dict(options)
    if "wheels" not in DEVICES.options(name):
        raise UserError(f"--wheels has no effect on the device {name}: nothing is put there.")
    if not any(wheels.glob("*.whl")):
        raise UserError(f"--wheels {wheels}: no .whl file there. Collect some with pip download.")
    return name, {**options, "wheels": str(wheels.resolve())}


def verify_files(
    files: list[Path], num_photos: int, data: Path | None, *, device: str, options: dict[str, Any]
) -> Shown:
    """Bare files on one device, with photos of the test part of `data`."""
    from distill.data import scan_folder

    if data is None:
        raise UserError("--data is missing: the folder of class folders to take photos from.")
    photos = _some(scan_folder(data)["test"].paths, num_photos)
    return _shown(verify(files, photos, device=device, options=options))


def verify_run(run: RunDir, experiment: Experiment, num_photos: int, *, target: str) -> Shown:
    """The files of a run on every device of its config, with some of its test photos."""
    from cli.steps import NEEDS, ensure, file_names, run_photos

    ensure(run, experiment, NEEDS["latency"], target)
    files = [run.file(name) for name in file_names(experiment)]
    photos = _some(run_photos(run).test.paths, num_photos)
    rows: list[dict[str, Any]] = []
    for device in experiment.evaluate.devices:
        rows += verify(files, photos, device=device.name, options=device.options)
    return _shown(rows)


def _some(photos: list[Path], count: int) -> list[Path]:
    """So many of all, evenly spread over the classes they are sorted by."""
    places = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    return [photos[place] for place in places]


def _shown(rows: list[dict[str, Any]]) -> Shown:
    lines = [
        f"{row['name']} on {row['device']}: the same class for {row['argmax_equal']} of {row['n']} "
        f"photos, answers at most {row['max_abs_diff']:.2g} apart"
        for row in rows
    ]
    return {"verified": rows}, "\n".join(lines)
