"""`evaluate`: measure files, write the report, ask one file about some photos."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options import (
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
        from commands.bare import measure_files
        from eval.pixels import pixels_from_options

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
    from commands.report import report_rows
    from compress.pipeline import take

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
    from commands.latency import Asked, of_files, of_run

    asked = Asked(
        device=device,
        num_threads=num_threads,
        num_runs=num_runs,
        thermal=thermal,
        single_stream=single_stream,
        profile=profile,
        verify=verify,
        data=data,
        wheels=wheels,
    )
    if is_file_target(target):
        refuse(target[0], ONLY_RUN, run=run, set_=set_, force=force)
        result, text = of_files([Path(file) for file in target], asked)
        return show_result(result, text, as_json=json)
    refuse(_one(target), ONLY_BARE, num_threads=num_threads, num_runs=num_runs, data=data)
    directory, experiment = open_run(target[0], run, set_)
    result, text = of_run(directory, experiment, asked, target=target[0], force=force)
    return show_result(result, text, as_json=json)


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
    from commands.tables import devices_table
    from configs.errors import UserError
    from configs.records import to_json
    from eval.devices.registry import check_device, parse_device

    named = [parse_device(text) for text in device or []]
    if target is not None:
        named = [(d.name, d.options) for d in open_config(target, set_).evaluate.devices] + named
    if not named:
        raise UserError("no device: give a TARGET whose config has some, or --device.")
    checks = [check_device(name, options) for name, options in named]
    show_result({"devices": to_json(checks)}, devices_table(checks), as_json=json)
    if any(check.problem for check in checks):
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
    from commands.report import finish_report
    from compress.pipeline import NEEDS, ensure

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
    from commands.tables import runs_table
    from configs.run_dir import RunDir
    from distill.data.manifest import load_examples
    from eval.choice.compare import compare_runs

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
    from configs.artifacts import read_json
    from eval.choice.budget import Limits
    from eval.choice.gate import gate_shortfalls, reported_file

    reported = reported_file(read_json(run / "report.json"), file)
    limits = Limits(
        min_top1=min_top1, max_drop=max_drop, max_p90_ms=max_p90_ms, max_bytes=max_bytes
    )
    reasons = gate_shortfalls(reported, limits)
    text = f"{reported['name']}: {'; '.join(reasons) or 'holds'}"
    result = {"file": reported["name"], "passed": not reasons, "shortfalls": reasons}
    show_result(result, text, as_json=json)
    if reasons:
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
    from commands.bare import predict_photos
    from eval.pixels import pixels_from_options

    answers = predict_photos(file, photos, pixels=pixels_from_options(pixels, mean, std))
    lines = []
    for answer in answers:
        best = "  ".join(f"{p['class']} {p['probability']:.1%}" for p in answer["answers"][:3])
        lines.append(f"{answer['photo']}  {best}")
    show_result({"file": str(file), "predictions": answers}, "\n".join(lines), as_json=json)


def is_file_target(target: list[str]) -> bool:
    """Whether the words are model files rather than one target."""
    from configs.artifacts import ending
    from configs.errors import UserError

    files = [ending(word) in (".tflite", ".onnx") for word in target]
    if any(files) and not all(files):
        raise UserError(f"{' '.join(target)}: give one TARGET, or only .tflite and .onnx files.")
    return all(files)


def _one(target: list[str]) -> str:
    from configs.errors import UserError

    if len(target) != 1:
        raise UserError(f"{' '.join(target)}: expected one TARGET, or .tflite and .onnx files.")
    return target[0]


def _show_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    from commands.tables import files_table

    show_result({"files": rows}, files_table(rows), as_json=as_json)
