"""`evaluate latency`: which measurement its options ask for, and how the result is shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.contract import ContractOptions
from commands.options import Result, refuse
from commands.tables import (
    files_table,
    profile_table,
    single_stream_table,
    speed_note,
    thermal_table,
)
from compress.bare_files import NUM_RUNS, sustain_files, time_files, verify_files
from compress.run.measure import (
    Rows,
    chosen_devices,
    sustain_run,
    time_run,
    verify_run,
    wheels_folder,
    with_option,
)
from configs.errors import UserError
from configs.records import to_json
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from eval.devices.registry import parse_device
from eval.devices.verify import Verification
from eval.timing.modes import PROFILE, SINGLE_STREAM, Mode, thermal_mode

TABLES = {
    "thermal": thermal_table,
    "single-stream": single_stream_table,
    "profile": profile_table,
}

ONE_THREAD = "A browser gives threads to a page over https alone, or on its own machine: --https"


@dataclass(frozen=True)
class LatencyOptions:
    """The options of the command; see `evaluate latency --help`."""

    device: str | None
    num_threads: int | None
    num_runs: int | None
    thermal: float | None
    single_stream: bool
    profile: bool
    verify: int | None
    data: Path | None
    wheels: Path | None
    https: bool
    contract: ContractOptions

    def on(self, devices: list[Choice]) -> list[Choice]:
        """The devices, with what these options change of them.

        Raises:
            UserError: an option has no effect on any of them, or `--wheels` names no wheels.
        """
        if self.wheels is not None:
            devices = with_option(devices, "wheels", wheels_folder(self.wheels))
        return with_option(devices, "https", True) if self.https else devices

    def mode(self) -> Mode | None:
        """The measurement of one file at a time, if the options ask for one.

        Raises:
            UserError: options that have no effect beside each other.
        """
        modes = {
            "thermal": self.thermal,
            "single_stream": self.single_stream or None,
            "profile": self.profile or None,
        }
        if self.verify:
            refuse("--verify", "it measures no time.", **modes, num_runs=self.num_runs)
            refuse(
                "--verify",
                "it compares a file with itself, as the shape of its input says.",
                layout=self.contract.layout,
                contract=self.contract.contract,
            )
            return None
        refuse("times", "--verify takes its photos from there.", data=self.data)
        refuse("times", "they do not depend on the pixels; --verify does.", self.contract)
        chosen = [name for name, value in modes.items() if value is not None]
        if not chosen:
            return None
        refuse("this measurement", "it ends by itself.", num_runs=self.num_runs)
        if len(chosen) > 1:
            raise UserError(
                "--thermal, --single-stream and --profile are measurements of their own. Give one."
            )
        if self.thermal is not None:
            return thermal_mode(self.thermal)
        return SINGLE_STREAM if self.single_stream else PROFILE


def of_files(files: list[Path], options: LatencyOptions) -> Result:
    """Measure files on one device."""
    mode, num_threads = options.mode(), options.num_threads or 1
    name, device_options = parse_device(options.device or "local")
    (device,) = options.on([Choice(name=name, options=device_options)])
    if options.verify:
        rows = verify_files(
            files,
            options.verify,
            device,
            data=options.data,
            choice=options.contract.choice(),
            num_threads=num_threads,
        )
        return _verified(rows)
    if mode:
        return _sustained([sustain_files(files, mode, device, num_threads=num_threads)], mode)
    timed = time_files(
        files, device, num_threads=num_threads, num_runs=options.num_runs or NUM_RUNS
    )
    return Result({"files": timed}, _table(timed, num_threads))


def of_run(
    run: RunDir,
    experiment: Experiment,
    options: LatencyOptions,
    *,
    target: str,
    force: list[str] | None,
) -> Result:
    """Measure the files of a run on the devices of its config, or on one of them."""
    mode = options.mode()
    devices = options.on(chosen_devices(experiment, options.device))
    if options.verify:
        return _verified(verify_run(run, experiment, options.verify, devices, target=target))
    if mode:
        again = "latency" in (force or [])
        return _sustained(
            sustain_run(run, experiment, mode, devices, target=target, force=again), mode
        )
    rows, by_device = time_run(run, experiment, devices, target=target, force=force)
    tables = []
    for of_device in by_device:
        title = f"{of_device[0]['latency'][0]['device']}\n" if len(by_device) > 1 else ""
        tables.append(title + _table(of_device, experiment.evaluate.num_threads))
    return Result({"files": rows}, "\n\n".join(tables))


def _table(rows: Rows, num_threads: int) -> str:
    """The times of files on one device, and what a reader has to know of them.

    Args:
        num_threads: that the files should have used.
    """
    used = min(row["latency"][0]["num_threads"] for row in rows)
    threads = "" if used == num_threads else f"\n{used} of {num_threads} threads. {ONE_THREAD}"
    return files_table(rows) + speed_note(rows) + threads


def _verified(rows: list[Verification]) -> Result:
    if not rows:
        raise UserError(
            "these devices report no answers, only times. Name another device with --device."
        )
    lines = [
        f"{row.name} on {row.device}: the same class for {row.argmax_equal} of {row.n} "
        f"photos, answers at most {row.max_abs_diff:.2g} apart"
        for row in rows
    ]
    return Result({"verified": to_json(rows)}, "\n".join(lines))


def _sustained(measurements: list[dict[str, Any]], mode: Mode) -> Result:
    """A row for each file and device, without the raw times; a table for each device."""
    rows = [
        {"name": name, **{key: value for key, value in measured.items() if key != "times_ms"}}
        for on_device in measurements
        for name, measured in on_device.items()
    ]
    tables = [TABLES[mode.name](on_device) for on_device in measurements]
    return Result({"files": rows}, "\n".join(tables))
