"""Measure the files of a run: latency on its devices, answers on them, and the report."""

from functools import partial
from pathlib import Path
from typing import Any

from compress.bare_files import latency_row
from compress.run.execution import ensure, take_one
from compress.run.pipeline import (
    NEEDS,
    curve_names,
    device_latency_step,
    file_names,
    model_names,
    run_photos,
)
from configs.errors import UserError
from configs.records import from_json, to_json
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from distill.trackers.of_run import publish_report
from distill.trained.ship import shipped_of
from distill.trained.temperature import temperature_of
from eval.contract.file_contract import describe
from eval.devices.registry import DEVICES, device_label
from eval.devices.verify import Verification, spread, verify
from eval.report.report import Subject, build_report, write_report
from eval.timing.latency import Latency
from eval.timing.modes import Mode, sustain_step

Rows = list[dict[str, Any]]
"""Rows as in report.json."""


def write_run_report(
    run: RunDir, experiment: Experiment, *, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Write the reports of a run; returns report.json.

    Args:
        without: files that could not be written.
    """
    report = write_report(run, experiment, _subject(run, experiment, without))
    publish_report(run, experiment, report)
    return report


def report_rows(run: RunDir, experiment: Experiment) -> Rows:
    """The rows of a run's files: scores, and latencies as far as they were measured."""
    built = build_report(run, experiment, _subject(run, experiment))
    return list(to_json(built.report.files))


def _subject(run: RunDir, experiment: Experiment, without: tuple[str, ...] = ()) -> Subject:
    shipped = shipped_of(run)
    return Subject(
        photos=run_photos(run),
        models=model_names(experiment),
        files=[name for name in file_names(run, experiment) if name not in without],
        shipped=shipped,
        temperature=temperature_of(run, experiment, shipped.model),
        curve=tuple(curve_names(experiment)),
    )


def time_run(
    run: RunDir,
    experiment: Experiment,
    devices: list[Choice],
    *,
    target: str,
    force: list[str] | None,
) -> tuple[Rows, list[Rows]]:
    """Time the files of a run.

    Returns:
        Rows of the files with the latencies on all devices, and the rows of each device.
    """
    manifests = [
        take_one(
            run,
            experiment,
            partial(device_latency_step, device=device),
            "latency",
            target=target,
            force=force,
        )
        for device in devices
    ]
    return _latency_rows(run, manifests), [_latency_rows(run, [manifest]) for manifest in manifests]


def _latency_rows(run: RunDir, manifests: list[dict[str, Any]]) -> Rows:
    names = dict.fromkeys(name for manifest in manifests for name in manifest["latency"])
    return [
        latency_row(
            run.file(name),
            describe(run.file(name)),
            [
                from_json(Latency, manifest["latency"][name])
                for manifest in manifests
                if name in manifest["latency"]
            ],
        )
        for name in names
    ]


def sustain_run(
    run: RunDir,
    experiment: Experiment,
    mode: Mode,
    devices: list[Choice],
    *,
    target: str,
    force: bool,
) -> list[dict[str, Any]]:
    """What one of the modes measures on each device, by the name of the file."""
    ensure(run, experiment, NEEDS["latency"], target)
    files = mode.able([run.file(name) for name in file_names(run, experiment)])
    steps = [
        sustain_step(
            run,
            files,
            mode.task,
            name=mode.name,
            settings=mode.settings,
            device=device.name,
            options=device.options,
            num_threads=experiment.evaluate.num_threads,
        )
        for device in devices
    ]
    return [dict(take_step(step, force=force)["files"]) for step in steps]


def verify_run(
    run: RunDir, experiment: Experiment, num_photos: int, devices: list[Choice], *, target: str
) -> list[Verification]:
    """Whether the files of a run answer on its devices as they do here, for test photos."""
    ensure(run, experiment, NEEDS["latency"], target)
    files = [run.file(name) for name in file_names(run, experiment)]
    photos = spread(run_photos(run).test.paths, num_photos)
    return [
        row
        for device in devices
        for row in verify(
            files,
            photos,
            device=device.name,
            options=device.options,
            num_threads=experiment.evaluate.num_threads,
        )
    ]


def chosen_devices(experiment: Experiment, label: str | None) -> list[Choice]:
    """The devices of a config, or the one with this label.

    Raises:
        UserError: there is no such device.
    """
    devices = {device_label(d.name, d.options): d for d in experiment.evaluate.devices}
    if label is None:
        return list(devices.values())
    if label not in devices:
        raise UserError(f"--device {label}: the config has {', '.join(devices)}.")
    return [devices[label]]


def with_option(devices: list[Choice], key: str, value: object) -> list[Choice]:
    """The devices, with an option for those that have it.

    Raises:
        UserError: none has it.
    """
    able = {device.name for device in devices if key in DEVICES.options(device.name)}
    if not able:
        names = ", ".join(device.name for device in devices)
        kinds = ", ".join(name for name in DEVICES.names() if key in DEVICES.options(name))
        raise UserError(f"--{key} has no effect on {names}. It is for {kinds} devices.")
    return [
        Choice(name=device.name, options={**device.options, key: value})
        if device.name in able
        else device
        for device in devices
    ]


def wheels_folder(wheels: Path) -> str:
    """The folder of `--wheels`, as a device takes it.

    Raises:
        UserError: there are no wheels in it.
    """
    folder = wheels.expanduser().resolve()
    if not any(folder.glob("*.whl")):
        raise UserError(f"--wheels {wheels}: no .whl file there. Collect some with pip download.")
    return str(folder)
