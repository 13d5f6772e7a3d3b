"""`compress`: smaller models and the files that ship."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import (
    Debug,
    Force,
    Json,
    Overrides,
    Quiet,
    Run,
    Target,
    budget_of,
    open_run,
    refuse,
    show_result,
    start_logging,
)

app = typer.Typer(
    help="Prune and quantize a student, and write TFLite and ONNX files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ONLY_BARE = "it is for a bare .keras model. For a run, set it in the config (--set)."
ONLY_RUN = "it is for a run. Give a config, a folder of photos or a run directory."
ONLY_SEARCHED = "it is for a search. Give a limit (--max-drop 0.005) and no --recipe."

ModelTarget = Annotated[
    str,
    typer.Argument(
        metavar="TARGET | MODEL.keras",
        help="As elsewhere, or a .keras file: any image classifier.",
        show_default=False,
    ),
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of class folders (bare model).")]
Recipe = Annotated[
    list[str] | None,
    typer.Option("--recipe", help="For a bare model: int8, onnx.int8, dynamic ...; repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", help="For a bare model: where files go.")]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="For a bare model: the fastest file that loses no more top-1 than this (0.005: half a "
        "point); of the recipes, or without --recipe of all that are worth a try.",
        show_default="0.01 where another limit is given",
    ),
]
MaxLatency = Annotated[
    float | None, typer.Option("--max-latency-ms", help="The same, and its median is no longer.")
]
MaxBytes = Annotated[
    int | None, typer.Option("--max-bytes", help="The same, and the file is no larger.")
]
QatEpochs = Annotated[
    int | None,
    typer.Option(
        "--qat-epochs",
        min=1,
        help="For a search: where rounding alone does not hold the budget, have the model learn "
        "to be rounded for so many epochs.",
    ),
]
PixelRange = Annotated[
    str | None,
    typer.Option("--pixels", help="What a bare model expects: 0..255, 0..1 or -1..1."),
]
Mean = Annotated[str | None, typer.Option("--mean", help="R,G,B subtracted, in 0..255.")]
Std = Annotated[str | None, typer.Option("--std", help="R,G,B divided by, in 0..255.")]


@app.command()
def prune(
    target: Target,
    run: Run = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Apply the config's methods to the student, each fine-tuned on the soft labels."""
    start_logging(quiet)
    directory, experiment = open_run(target, run, set_)
    from compress.files import method_chain
    from compress.pipeline import take
    from configs.errors import UserError

    names = [name for name, _ in method_chain(experiment)]
    if not names:
        raise UserError(
            f"{target} names no method. Name one under compress.methods, or\n"
            f"  compress prune {target} --set 'compress.methods=[magnitude]'"
        )
    take(directory, experiment, ["prune"], target=target, force=force)
    paths = {name: str(directory.model(name)) for name in names}
    show_result({"models": paths}, "\n".join(paths.values()), as_json=json)


@app.command()
def export(
    target: Target,
    run: Run = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the config's float32 files."""
    _write_files("export", target, run, set_, force, quiet=quiet, json=json)


@app.command()
def quantize(
    target: ModelTarget,
    run: Run = None,
    data: Data = None,
    recipe: Recipe = None,
    out: Out = None,
    max_drop: MaxDrop = None,
    max_latency_ms: MaxLatency = None,
    max_bytes: MaxBytes = None,
    qat_epochs: QatEpochs = None,
    pixels: PixelRange = None,
    mean: Mean = None,
    std: Std = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the config's quantized files, or those of a bare .keras model."""
    from configs.artifacts import ending

    limits = {"max_drop": max_drop, "max_latency_ms": max_latency_ms, "max_bytes": max_bytes}
    if ending(target) not in (".keras", ".h5"):
        refuse(target, ONLY_BARE, data=data, recipe=recipe, out=out, **limits)
        refuse(target, ONLY_BARE, qat_epochs=qat_epochs, pixels=pixels, mean=mean, std=std)
        _write_files("quantize", target, run, set_, force, quiet=quiet, json=json)
        return
    refuse(target, ONLY_RUN, run=run, set_=set_, force=force)
    start_logging(quiet)
    from commands.tables import candidates_table, files_table
    from compress.standalone import quantize_model
    from eval.pixels import pixels_from_options

    budget = budget_of(limits)
    if recipe or budget is None:
        refuse(target, ONLY_SEARCHED, qat_epochs=qat_epochs)
    rows, verdict = quantize_model(
        Path(target),
        data=data,
        recipes=recipe or ([] if budget else ["int8"]),
        out=out,
        budget=budget,
        pixels=pixels_from_options(pixels, mean, std),
        qat_epochs=qat_epochs,
    )
    text = files_table(rows, verdict["chosen_file"] if verdict else None)
    if verdict and "candidates" in verdict:
        tested = f"\n\non the test photos:\n{text}" if rows else ""
        text = candidates_table(verdict["candidates"]) + tested
    if verdict:
        chosen = f"* {verdict['chosen_file']}: " if verdict["chosen_file"] else ""
        text += f"\n\n{chosen}{verdict['reason']}"
    show_result({"files": rows, "verdict": verdict}, text, as_json=json)


def _write_files(
    step: str,
    target: str,
    run: Path | None,
    set_: list[str] | None,
    force: list[str] | None,
    *,
    quiet: bool,
    json: bool,
) -> None:
    start_logging(quiet)
    directory, experiment = open_run(target, run, set_)
    from compress.pipeline import take

    manifests = take(directory, experiment, [step], target=target, force=force)
    paths = [str(directory.file(name)) for m in manifests for name in m["outputs"]]
    show_result({"files": paths}, "\n".join(paths), as_json=json)
