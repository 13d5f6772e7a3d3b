"""What `evaluate latency` does with bare files or with a run."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from commands.bare import NUM_RUNS, describe, measure_files
from commands.options import refuse
from commands.report import latency_rows
from commands.sustained import (
    Mode,
    chosen_mode,
    sustain_files,
    sustain_run,
)
from commands.tables import files_table, speed_note
from commands.verify import on_wheels, verify_files, verify_run
from compress.pipeline import device_latency_step, take_one
from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema import Choice, Experiment
from eval.devices.registry import device_label, parse_device

Shown = tuple[dict[str, Any], str]
"""A result for programs and for people."""


@dataclass(frozen=True)
class Asked:
    """What the command line says; see `evaluate latency --help`."""

    device: str | None
    num_threads: int | None
    num_runs: int | None
    thermal: float | None
    single_stream: bool
    profile: bool
    verify: int | None
    data: Path | None
    wheels: Path | None

    def mode(self) -> Mode | None:
        """What is measured of one file at a time, if that is asked for.

        Raises:
            UserError: options that have no effect on one another.
        """
        modes = {
            "thermal": self.thermal,
            "single_stream": self.single_stream or None,
            "profile": self.profile or None,
        }
        if self.verify:
            refuse("--verify", "it times nothing.", **modes, num_runs=self.num_runs)
            return None
        refuse("times", "it is where --verify takes its photos from.", data=self.data)
        if all(value is None for value in modes.values()):
            return None
        refuse("this measurement", "it ends by itself.", num_runs=self.num_runs)
        return chosen_mode(self.thermal, stream=self.single_stream, profile=self.profile)


def of_files(files: list[Path], asked: Asked) -> Shown:
    """Bare files on one device."""
    mode, num_threads = asked.mode(), asked.num_threads or 1
    name, options = parse_device(asked.device or "local")
    (choice,) = on_wheels([Choice(name=name, options=options)], asked.wheels)
    options = choice.options
    for file in files:
        describe(file)
    if asked.verify:
        return verify_files(
            files, asked.verify, asked.data, device=name, options=options, num_threads=num_threads
        )
    if mode:
        return sustain_files(files, mode, device=name, options=options, num_threads=num_threads)
    num_runs = asked.num_runs or NUM_RUNS
    rows = measure_files(
        files, device=name, options=options, num_threads=num_threads, num_runs=num_runs
    )
    return {"files": rows}, files_table(rows) + speed_note(rows)


def of_run(
    directory: RunDir, experiment: Experiment, asked: Asked, *, target: str, force: list[str] | None
) -> Shown:
    """The files of a run on the devices of its config, or on one of them."""
    mode, devices = asked.mode(), experiment.evaluate.devices
    labels = {device_label(each.name, each.options): each for each in devices}
    if asked.device is not None:
        if asked.device not in labels:
            raise UserError(f"--device {asked.device}: the config has {', '.join(labels)}.")
        devices = [labels[asked.device]]
    devices = on_wheels(devices, asked.wheels)
    if asked.verify:
        return verify_run(directory, experiment, asked.verify, devices, target=target)
    if mode:
        again = "latency" in (force or [])
        return sustain_run(directory, experiment, mode, devices, target=target, force=again)
    manifests = [
        take_one(
            directory,
            experiment,
            partial(device_latency_step, device=device),
            "latency",
            target=target,
            force=force,
        )
        for device in devices
    ]
    tables = []
    for manifest in manifests:
        rows = latency_rows(directory, [manifest])
        title = f"{rows[0]['latency'][0]['device']}\n" if len(manifests) > 1 else ""
        tables.append(title + files_table(rows) + speed_note(rows))
    return {"files": latency_rows(directory, manifests)}, "\n\n".join(tables)
