"""`evaluate`: measure files, write the report, ask one file about photos."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.answers import are_files, predict, runtimes, serve
from commands.contract import ContractOptions
from commands.option_groups.sharing import ShardOptions
from commands.options import (
    ConfigOptions,
    Result,
    RunOptions,
    StepOptions,
    Target,
    command,
    new_app,
    open_config,
    open_run,
    refuse,
)
from configs.errors import UserError

app = new_app("Measure model files: accuracy, latency, and a report of a run.")

ONLY_FILES = (
    "it is for .tflite and .onnx files. For a run, set it in the config (--set). For a Keras "
    "model, make a file first:\n  compress quantize MODEL.keras --recipe float32"
)
ONLY_RUN = "it is for a run. Give a config, a folder of photos or a run directory."

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET | FILE...",
        help="As in the other commands, or one or more .tflite and .onnx files.",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--num-threads", min=1, help="For files: threads that a file may use.", show_default="1"
    ),
]


@command(app)
def accuracy(
    target: Targets,
    options: StepOptions,
    where: ShardOptions,
    contract: ContractOptions,
    data: Annotated[
        Path | None, typer.Option("--data", help="For files: folder of class folders.")
    ] = None,
    num_threads: Threads = None,
) -> Result:
    """Score the files of a run, or other files on the test part of a folder of photos."""
    if are_files(target):
        refuse(target[0], ONLY_RUN, options, where)
        from compress.bare_files import score_files

        files = [Path(word) for word in target]
        rows = score_files(files, data=data, choice=contract.choice(), num_threads=num_threads or 1)
        return _rows(rows)
    refuse(_one(target), ONLY_FILES, contract, data=data, num_threads=num_threads)
    from compress.run.execution import take
    from compress.run.measure import report_rows

    part = where.part()
    directory, experiment = open_run(target[0], options)
    with where.cluster() as cluster:
        done = take(
            directory,
            experiment,
            ["accuracy"],
            target=target[0],
            force=options.force,
            cluster=cluster,
            shard=part,
        )
    if part:
        value = {"shard": part[0], "num_shards": part[1], "num_scored": len(done.manifests)}
        text = f"part {part[0]} of {part[1]}: {len(done.manifests)} models and files are scored"
        return Result(value, f"{text}\nAfter all parts: evaluate accuracy {target[0]}")
    return _rows(report_rows(directory, experiment))


@command(app)
def latency(
    target: Targets,
    options: StepOptions,
    contract: ContractOptions,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="One device of the config; for files also ssh:pi@kitchen, browser, or an entry of "
            "a config: '{name: ssh, host: kitchen, config: FILE}'.",
        ),
    ] = None,
    num_threads: Threads = None,
    num_runs: Annotated[
        int | None,
        typer.Option(
            "--num-runs", min=1, help="For files: how often each is timed.", show_default="200"
        ),
    ] = None,
    thermal: Annotated[
        float | None,
        typer.Option(
            "--thermal", metavar="MINUTES", help="Instead of rounds: each file under load, so long."
        ),
    ] = None,
    single_stream: Annotated[
        bool,
        typer.Option(
            "--single-stream",
            help="Instead of rounds: MLPerf's single-stream scenario, a minute for each file, p90.",
        ),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Instead of rounds: the time of each operator of .onnx files."
        ),
    ] = False,
    verify: Annotated[
        int | None,
        typer.Option(
            "--verify",
            min=1,
            metavar="N",
            help="Instead of timing: compare the answers for N photos on the device and here.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="With --verify, for files: a folder of class folders."),
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option("--wheels", help="For an ssh device: a folder with a runtime.")
    ] = None,
    https: Annotated[
        bool,
        typer.Option("--https", help="For a browser: sign a certificate, which threads need."),
    ] = False,
) -> Result:
    """Time the files of a run, or other files, in interleaved rounds."""
    from commands.latency import LatencyOptions, of_files, of_run

    chosen = LatencyOptions(
        device=device,
        num_threads=num_threads,
        num_runs=num_runs,
        thermal=thermal,
        single_stream=single_stream,
        profile=profile,
        verify=verify,
        data=data,
        wheels=wheels,
        https=https,
        contract=contract,
    )
    if are_files(target):
        refuse(target[0], ONLY_RUN, options)
        return of_files([Path(word) for word in target], chosen)
    refuse(_one(target), ONLY_FILES, contract, num_threads=num_threads, num_runs=num_runs)
    refuse(target[0], ONLY_FILES, data=data)
    directory, experiment = open_run(target[0], options)
    return of_run(directory, experiment, chosen, target=target[0], force=options.force)


@command(app)
def devices(
    options: ConfigOptions,
    target: Annotated[
        str | None, typer.Argument(help="A config or run; its devices.", show_default=False)
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            help="Another device: ssh:pi@kitchen, or an entry of a config: '{name: ssh, host: "
            "kitchen, config: FILE}'; repeatable.",
        ),
    ] = None,
) -> Result:
    """Check that devices can be reached, and say what they are; exit with 1 if one cannot."""
    from commands.tables import devices_table
    from configs.records import to_json
    from eval.devices.registry import check_device, parse_device

    chosen = [parse_device(text) for text in device or []]
    if target is not None:
        config = open_config(target, options)
        chosen = [(d.name, d.options) for d in config.evaluate.devices] + chosen
    if not chosen:
        raise UserError("no device: give a TARGET whose config has devices, or --device.")
    checks = [check_device(name, device_options) for name, device_options in chosen]
    failed = any(check.problem for check in checks)
    return Result({"devices": to_json(checks)}, devices_table(checks), exit_code=1 if failed else 0)


@command(app)
def report(target: Target, options: RunOptions) -> Result:
    """Write report.json, report.md, report.html and the model card of a run."""
    from commands.reports import finish_report
    from compress.run.execution import ensure
    from compress.run.pipeline import NEEDS

    directory, experiment = open_run(target, options)
    ensure(directory, experiment, NEEDS["report"], target)
    return finish_report(directory, experiment, {})


@command(app)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    any_state: Annotated[
        bool, typer.Option("--any-state", help="Show latencies of unlike machines and settings.")
    ] = False,
) -> Result:
    """Compare runs: their models, and the file that each ships."""
    from commands.tables import runs_table
    from configs.records import to_json
    from configs.run_dir import RunDir
    from distill.data.manifest import load_examples
    from eval.choice.compare import compare_runs

    directories = [RunDir(run) for run in runs]
    rows = compare_runs(
        directories, lambda run: load_examples(run, "test").labels, any_state=any_state
    )
    return Result({"runs": to_json(rows)}, runs_table(rows))


@command(app)
def gate(
    run: Annotated[Path, typer.Argument(help="A run directory with a report.")],
    file: Annotated[
        str | None, typer.Option(help="One of its files.", show_default="chosen")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least top-1 on the test photos: 0.9.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            max=1, help="Largest loss of top-1 against its parent: 0.005 is half a point."
        ),
    ] = None,
    max_p90_ms: Annotated[float | None, typer.Option(min=0, help="Largest p90 latency.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="Largest size.")] = None,
) -> Result:
    """Exit with 1 if a file of a run misses a limit, with 0 if it holds all of them."""
    from configs.run_dir import RunDir
    from eval.choice.budget import Limits
    from eval.choice.gate import gate_shortfalls
    from eval.choice.stored_report import load_report

    stored = load_report(RunDir(run)).file(file)
    limits = Limits(
        min_top1=min_top1, max_drop=max_drop, max_p90_ms=max_p90_ms, max_bytes=max_bytes
    )
    reasons = gate_shortfalls(stored, limits)
    return Result(
        {"file": stored.name, "passed": not reasons, "shortfalls": reasons},
        f"{stored.name}: {'; '.join(reasons) or 'holds all limits'}",
        exit_code=1 if reasons else 0,
    )


command(app)(predict)
command(app)(serve)
command(app)(runtimes)


def _one(words: list[str]) -> str:
    if len(words) != 1:
        raise UserError(f"{' '.join(words)}: expected one TARGET, or .tflite and .onnx files.")
    return words[0]


def _rows(rows: list[dict[str, Any]]) -> Result:
    from commands.tables import files_table

    return Result({"files": rows}, files_table(rows))
