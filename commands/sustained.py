"""`evaluate latency --thermal`, `--single-stream` and `--profile`: one file after the other."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from commands.tables import profile_table, single_stream_table, thermal_table
from compress.pipeline import NEEDS, ensure, file_names
from configs.artifacts import ending
from configs.errors import UserError
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Choice, Experiment
from eval.timing.sustained import (
    MIN_QUERIES,
    MIN_SECONDS,
    Task,
    operator_profile,
    single_stream,
    sustain,
    sustain_step,
    thermal_curve,
)

log = logging.getLogger("potstill")

Told = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Mode:
    """What is done with every file, and how it is shown."""

    name: str
    task: Task
    settings: dict[str, Any]
    table: Callable[[Told], str]
    formats: tuple[str, ...] = (".tflite", ".onnx")

    def able(self, files: list[Path]) -> list[Path]:
        """Those of the files that it can be done with; the others are named in the log.

        Raises:
            UserError: there are none.
        """
        able = [file for file in files if ending(file) in self.formats]
        others = ", ".join(file.name for file in files if file not in able)
        if not able:
            raise UserError(f"--{self.name} is for {', '.join(self.formats)} files; got {others}.")
        if others:
            log.info("left out, for no %s can be had of them: %s", self.name, others)
        return able


def chosen_mode(thermal_minutes: float | None, *, stream: bool, profile: bool) -> Mode:
    """The one of the three that is asked for.

    Raises:
        UserError: more than one is, or the minutes are none.
    """
    if (thermal_minutes is not None) + stream + profile > 1:
        raise UserError(
            "--thermal, --single-stream and --profile are measurements of their own. Give one."
        )
    if profile:
        return Mode("profile", operator_profile, {}, profile_table, (".onnx",))
    if thermal_minutes is None:
        minima = {"num_queries": MIN_QUERIES, "seconds": MIN_SECONDS}
        return Mode("single-stream", single_stream, minima, single_stream_table)
    if not thermal_minutes > 0:
        raise UserError(f"--thermal {thermal_minutes:g}: expected minutes above 0, for example 10.")
    seconds = 60 * thermal_minutes
    task = partial(thermal_curve, seconds=seconds)
    return Mode("thermal", task, {"seconds": seconds}, thermal_table)


def sustain_files(
    files: list[Path], mode: Mode, *, device: str, options: dict[str, Any], num_threads: int
) -> tuple[dict[str, Any], str]:
    """What `mode` tells of bare files on one device, for programs and for people."""
    measurements = sustain(
        mode.able(files),
        mode.task,
        name=mode.name,
        device=device,
        options=options,
        num_threads=num_threads,
    )
    return _shown([{key: measured.to_json() for key, measured in measurements.items()}], mode)


def sustain_run(
    run: RunDir,
    experiment: Experiment,
    mode: Mode,
    devices: list[Choice],
    *,
    target: str,
    force: bool,
) -> tuple[dict[str, Any], str]:
    """The same for the files of a run on some devices; what was done is read."""
    ensure(run, experiment, NEEDS["latency"], target)
    files = mode.able([run.file(name) for name in file_names(experiment)])
    told = []
    for device in devices:
        step = sustain_step(
            run,
            files,
            mode.task,
            name=mode.name,
            settings=mode.settings,
            device=device.name,
            options=device.options,
            num_threads=experiment.evaluate.num_threads,
        )
        told.append(take_step(step, force=force)["files"])
    return _shown(told, mode)


def _shown(told: list[Told], mode: Mode) -> tuple[dict[str, Any], str]:
    """A row for each file and device, without the raw times; a table for each device."""
    rows = [
        {"name": name, **{key: value for key, value in found.items() if key != "times_ms"}}
        for on_device in told
        for name, found in on_device.items()
    ]
    return {"files": rows}, "\n".join(mode.table(on_device) for on_device in told)
