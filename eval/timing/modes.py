"""Measurements of one file after the other, each loaded alone; in a run, they are stored."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from configs.artifacts import ending
from configs.errors import UserError
from configs.progress import track
from configs.records import to_json
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from eval.devices.probe import MachineState
from eval.devices.registry import DEVICES, Device, Options, device_label
from eval.footprint import model_sha256
from eval.timing.results import device_inputs, file_part
from eval.timing.sustained import (
    MIN_QUERIES,
    MIN_SECONDS,
    Result,
    Task,
    operator_profile,
    single_stream,
    thermal_curve,
)

log = logging.getLogger("potstill")


@dataclass(frozen=True)
class Mode:
    """A measurement that takes one file at a time.

    Attributes:
        name: the option of the command line, without its dashes.
        settings: what the result depends on.
        formats: endings of the files that it can measure.
    """

    name: str
    task: Task
    settings: Mapping[str, float]
    formats: tuple[str, ...] = (".tflite", ".onnx")

    def able(self, files: list[Path]) -> list[Path]:
        """The files that can be measured; the others are named in the log.

        Raises:
            UserError: there are none.
        """
        able = [file for file in files if ending(file) in self.formats]
        others = ", ".join(file.name for file in files if file not in able)
        if not able:
            raise UserError(f"--{self.name} is for {', '.join(self.formats)} files; got {others}.")
        if others:
            log.info("%s are left out: --%s cannot measure them", others, self.name)
        return able


def thermal_mode(minutes: float) -> Mode:
    """Every file under load for `minutes`.

    Raises:
        UserError: the minutes are not above 0.
    """
    if not minutes > 0:
        raise UserError(f"--thermal {minutes:g}: expected minutes above 0, for example 10.")
    seconds = 60 * minutes
    return Mode("thermal", partial(thermal_curve, seconds=seconds), {"seconds": seconds})


SINGLE_STREAM = Mode(
    "single-stream", single_stream, {"num_queries": MIN_QUERIES, "seconds": MIN_SECONDS}
)
PROFILE = Mode("profile", operator_profile, {}, (".onnx",))


@dataclass(frozen=True)
class Measurement:
    """The result of a task with one file, and how it was measured."""

    device: str
    runtime: str
    num_threads: int
    state: MachineState
    result: Result

    def to_json(self) -> dict[str, Any]:
        """The keys of the result beside those of the measurement."""
        row = to_json(self)
        return {**row, **row.pop("result")}


def sustain(
    files: list[Path],
    task: Task,
    *,
    name: str,
    device: str = "local",
    options: Options | None = None,
    num_threads: int = 1,
) -> dict[str, Measurement]:
    """Do a task with one file after the other, each loaded alone.

    Args:
        name: what progress calls the task.

    Returns:
        By the name of the file, or by its path where two files have the same name.

    Raises:
        StepFailed: a file cannot be executed there.
        UserError: the device executes none of the files, or does not time single executions.
    """
    label = device_label(device, options or {})
    measurements: dict[str, Measurement] = {}
    with (
        DEVICES[device](**(options or {})) as machine,
        track(f"{name} on {label}", len(files)) as advance,
    ):
        if machine.reports_means:
            raise UserError(
                f"{label} reports means of many executions, and this needs the time of each. Name "
                "another device with --device."
            )
        able = [file for file in files if ending(file) in machine.formats]
        has_unique_names = len({file.name for file in able}) == len(able)
        for number, file in enumerate(able, 1):
            key = file.name if has_unique_names else str(file)
            measurements[key] = _measure_alone(machine, label, file, task, num_threads)
            advance(number)
    return measurements


def _measure_alone(
    machine: Device, label: str, file: Path, task: Task, num_threads: int
) -> Measurement:
    session = machine.open(file, num_threads=num_threads)
    try:
        result = task(session)
        ready = session.ready
        session.close()
    except BaseException:
        session.kill()
        raise
    return Measurement(
        device=label,
        runtime=ready.runtime_name,
        num_threads=ready.num_threads or num_threads,
        state=ready.state,
        result=result,
    )


def sustain_step(
    run: RunDir,
    files: list[Path],
    task: Task,
    *,
    name: str,
    settings: Mapping[str, float],
    device: str,
    options: Options,
    num_threads: int,
) -> Step:
    """The same for the files of a run, stored in results/<name>-<device>.json with raw times.

    Args:
        settings: what the result of the task depends on.
    """
    inputs = {
        "files": {file.name: model_sha256(file) for file in files},
        "device": device_inputs(device, options),
        "num_threads": num_threads,
        "settings": dict(settings),
    }

    def build(workspace: Workspace) -> Built:
        measurements = sustain(
            files, task, name=name, device=device, options=options, num_threads=num_threads
        )
        return [], {"files": {key: measured.to_json() for key, measured in measurements.items()}}

    label = device_label(device, options)
    path = run.path / "results" / f"{name}-{file_part(label)}.json"
    return Step(f"{name} on {label}", path, inputs, build)
