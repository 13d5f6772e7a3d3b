"""`evaluate`: measure files, write the report, ask one file about some photos."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import (
    Debug,
    Force,
    Json,
    Overrides,
    Quiet,
    Run,
    Target,
    open_config,
    open_run,
    refuse,
    show_result,
    start_logging,
)

app = typer.Typer(
    help="Measure model files: accuracy, latency, and a report of a run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ONLY_BARE = "it is for bare files. For a run, set it in the config (--set)."
ONLY_RUN = "it is for a run. Give a config, a folder of photos or a run directory."

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET | FILE...",
        help="As elsewhere, or one or more .tflite and .onnx files.",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None, typer.Option("--num-threads", min=1, help="For bare files.", show_default="1")
]
Runs = Annotated[
    int | None, typer.Option("--num-runs", min=1, help="For bare files.", show_default="200")
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of class folders; its test part scores.")
]
PixelRange = Annotated[
    str | None,
    typer.Option("--pixels", help="What a foreign file expects: 0..255, 0..1 or -1..1."),
]
Mean = Annotated[str | None, typer.Option("--mean", help="R,G,B subtracted, in 0..255.")]
Std = Annotated[str | None, typer.Option("--std", help="R,G,B divided by, in 0..255.")]


@app.command()
def accuracy(
    target: Targets,
    run: Run = None,
    data: Data = None,
    pixels: PixelRange = None,
    mean: Mean = None,
    std: Std = None,
    num_threads: Threads = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score the files of a run, or bare files on a folder of photos."""
    start_logging(quiet)
    if is_file_target(target):
        refuse(target[0], ONLY_RUN, run=run, set_=set_, force=force)
        from cli.bare import measure_files
        from eval.accuracy import pixels_from_options

        rows = measure_files(
            [Path(file) for file in target],
            data=data,
            pixels=pixels_from_options(pixels, mean, std),
            num_threads=num_threads or 1,
            score=True,
        )
        return _show_rows(rows, json)
    given = {"data": data, "pixels": pixels, "mean": mean, "std": std, "num_threads": num_threads}
    refuse(_one(target), ONLY_BARE, **given)
    directory, experiment = open_run(target[0], run, set_)
    from cli.report import report_rows
    from cli.steps import take

    take(directory, experiment, ["accuracy"], target=target[0], force=force)
    return _show_rows(report_rows(directory, experiment), json)


@app.command()
def latency(
    target: Targets,
    run: Run = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="One device of the config; for bare files also ssh:pi@kitchen."
        ),
    ] = None,
    num_threads: Threads = None,
    num_runs: Runs = None,
    thermal: Annotated[
        float | None,
        typer.Option("--thermal", metavar="MINUTES", help="Each file's curve under load instead."),
    ] = None,
    single_stream: Annotated[
        bool, typer.Option("--single-stream", help="MLPerf's scenario instead: a minute, p90.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Times of operators instead (.onnx).")
    ] = False,
    verify: Annotated[
        int | None,
        typer.Option("--verify", min=1, metavar="N", help="Whether N photos get the same answers."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="For --verify of bare files: class folders.")
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option("--wheels", help="For an ssh device: a folder with a runtime.")
    ] = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time the files of a run, or bare files, in interleaved rounds."""
    start_logging(quiet)
    from cli.verify import on_wheels, verify_files, verify_run

    one_by_one = thermal is not None or single_stream or profile
    if is_file_target(target):
        refuse(target[0], ONLY_RUN, run=run, set_=set_, force=force)
        from cli.bare import NUM_RUNS, measure_files
        from eval.devices import parse_device

        name, options = on_wheels(parse_device(device or "local"), wheels)
        files = [Path(file) for file in target]
        if verify:
            nothing_timed = {"thermal": thermal, "num_runs": num_runs, "num_threads": num_threads}
            refuse("--verify", "it times nothing.", **nothing_timed)
            result, text = verify_files(files, verify, data, device=name, options=options)
            return show_result(result, text, as_json=json)
        if one_by_one:
            refuse("this measurement", "it ends by itself.", num_runs=num_runs)
            from cli.sustained import chosen_mode, sustain_files

            result, text = sustain_files(
                files,
                chosen_mode(thermal, stream=single_stream, profile=profile),
                device=name,
                options=options,
                num_threads=num_threads or 1,
            )
            return show_result(result, text, as_json=json)
        rows = measure_files(
            files,
            device=name,
            options=options,
            num_threads=num_threads or 1,
            num_runs=num_runs or NUM_RUNS,
        )
        return _show_times(rows, json)
    refuse(_one(target), ONLY_BARE, num_threads=num_threads, num_runs=num_runs, data=data)
    directory, experiment = open_run(target[0], run, set_)
    from cli.report import latency_rows
    from cli.steps import take
    from configs.errors import UserError
    from configs.schema import Choice
    from eval.devices import device_label

    labels = {device_label(c.name, c.options): c for c in experiment.evaluate.devices}
    if device is not None and device not in labels:
        raise UserError(f"--device {device}: the config has {', '.join(labels)}.")
    kept = [labels[device]] if device is not None else experiment.evaluate.devices
    kept = [
        Choice(name=n, options=o) for c in kept for n, o in [on_wheels((c.name, c.options), wheels)]
    ]
    evaluate = experiment.evaluate.model_copy(update={"devices": kept})
    experiment = experiment.model_copy(update={"evaluate": evaluate})
    if verify:
        result, text = verify_run(directory, experiment, verify, target=target[0])
        return show_result(result, text, as_json=json)
    if one_by_one:
        from cli.sustained import chosen_mode, sustain_run

        mode = chosen_mode(thermal, stream=single_stream, profile=profile)
        result, text = sustain_run(
            directory, experiment, mode, target=target[0], force="latency" in (force or [])
        )
        return show_result(result, text, as_json=json)
    manifests = take(directory, experiment, ["latency"], target=target[0], force=force)
    return _show_times(latency_rows(directory, manifests), json)


@app.command()
def devices(
    target: Annotated[
        str | None, typer.Argument(help="A config or run; its devices.", show_default=False)
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="Another one: ssh:pi@kitchen; repeatable."),
    ] = None,
    set_: Overrides = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look whether devices can be reached, and what they are; exit with 1 if one cannot."""
    start_logging(quiet)
    from cli.table import devices_table
    from configs.errors import UserError
    from eval.devices import check_device, parse_device

    named = [parse_device(text) for text in device or []]
    if target is not None:
        named = [(d.name, d.options) for d in open_config(target, set_).evaluate.devices] + named
    if not named:
        raise UserError("no device: give a TARGET whose config has some, or --device.")
    rows = [check_device(name, options) for name, options in named]
    show_result({"devices": rows}, devices_table(rows), as_json=json)
    if any(row["problem"] for row in rows):
        raise typer.Exit(1)


@app.command()
def report(
    target: Target,
    run: Run = None,
    set_: Overrides = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write report.json, report.md and report.html of a run."""
    start_logging(quiet)
    directory, experiment = open_run(target, run, set_)
    from cli.report import finish_report
    from cli.steps import NEEDS, ensure

    ensure(directory, experiment, NEEDS["report"], target)
    result, text = finish_report(directory, experiment)
    show_result(result, text, as_json=json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    any_state: Annotated[
        bool, typer.Option("--any-state", help="Latencies of unlike machines and settings, too.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Several runs side by side: their models, and the file that each ships."""
    start_logging(quiet)
    from cli.table import runs_table
    from configs.run_dir import RunDir
    from distill.data import load_examples
    from eval.compare import compare_runs

    directories = [RunDir(run) for run in runs]
    rows = compare_runs(
        directories, lambda run: load_examples(run, "test").labels, any_state=any_state
    )
    show_result({"runs": rows}, runs_table(rows), as_json=json)


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(help="A run directory with a report.")],
    file: Annotated[
        str | None, typer.Option(help="One of its files.", show_default="chosen")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option("--min-top1", min=0, max=1, help="On the test photos: 0.9.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(max=1, help="Of top-1 against its source: 0.005 is half a point."),
    ] = None,
    max_p90_ms: Annotated[float | None, typer.Option(min=0, help="Of its latency.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="Of its size.")] = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Exit with 1 if a file of a run falls short of a limit, with 0 if it holds them all."""
    start_logging(quiet)
    from configs.run_dir import read_json
    from eval.gate import chosen_row, shortfalls

    row = chosen_row(read_json(run / "report.json"), file)
    limits = {"min_top1": min_top1, "max_drop": max_drop}
    found = shortfalls(row, **limits, max_p90_ms=max_p90_ms, max_bytes=max_bytes)
    text = f"{row['name']}: {'; '.join(found) or 'holds'}"
    result = {"file": row["name"], "passed": not found, "shortfalls": found}
    show_result(result, text, as_json=json)
    if found:
        raise typer.Exit(1)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="A .tflite or .onnx file.")],
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Photos.")],
    pixels: PixelRange = None,
    mean: Mean = None,
    std: Std = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What one file says of some photos."""
    start_logging(quiet)
    from cli.bare import predict_photos
    from eval.accuracy import pixels_from_options

    answers = predict_photos(file, photos, pixels=pixels_from_options(pixels, mean, std))
    lines = []
    for answer in answers:
        best = "  ".join(f"{p['class']} {p['probability']:.1%}" for p in answer["answers"][:3])
        lines.append(f"{answer['photo']}  {best}")
    show_result({"file": str(file), "predictions": answers}, "\n".join(lines), as_json=json)


def is_file_target(target: list[str]) -> bool:
    """Whether the words are model files rather than one target."""
    from configs.errors import UserError

    files = [Path(word).suffix.lower() in (".tflite", ".onnx") for word in target]
    if any(files) and not all(files):
        raise UserError(f"{' '.join(target)}: give one TARGET, or only .tflite and .onnx files.")
    return all(files)


def _one(target: list[str]) -> str:
    from configs.errors import UserError

    if len(target) != 1:
        raise UserError(f"{' '.join(target)}: expected one TARGET, or .tflite and .onnx files.")
    return target[0]


def _show_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    from cli.table import files_table

    show_result({"files": rows}, files_table(rows), as_json=as_json)


def _show_times(rows: list[dict[str, Any]], as_json: bool) -> None:
    from cli.table import files_table, speed_note

    show_result({"files": rows}, files_table(rows) + speed_note(rows), as_json=as_json)
