"""`compress`: smaller models and the files that ship."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.contract import ContractOptions
from commands.options import (
    CodeOptions,
    EdgeOptions,
    LimitOptions,
    Result,
    StepOptions,
    Target,
    command,
    new_app,
    open_run,
    refuse,
)

if TYPE_CHECKING:
    from compress.standalone import Quantized
    from configs.schema.files import LeastRuntime

app = new_app("Prune and quantize a student, and write TFLite and ONNX files.")

ONLY_MODEL = (
    "it is for a model: a .keras, .h5 or .onnx file, or a SavedModel folder. Export a PyTorch "
    "model to ONNX. Instead of a .tflite file, give the model that it was made from. For a run, "
    "set it in the config (--set)."
)
ONLY_KERAS = "it is for a Keras model."
ONLY_RUN = "it is for a run. Give a config, a folder of photos or a run directory."
ONLY_SEARCH = "it is for a search. Give a limit (--max-drop 0.005) and no --recipe."

ONLY_FILE = "it is for a .tflite or .onnx file. A run knows its photos and its contract."
ONE_ANSWER = "the code of a bundle reads the only output. Export the model with this output alone."
ONE_CONTRACT = "a bundle states one contract. Find it first: evaluate accuracy FILE --contract auto"

NO_LABELS = (
    "\nThe photos have no labels. 'same as parent' is the share of photos with the model's own "
    "answer, and 'drop' is the top-1 that the file is expected to lose."
)

ModelTarget = Annotated[
    str,
    typer.Argument(
        metavar="TARGET | MODEL.keras",
        help="As in the other commands, or a model: a .keras, .h5 or .onnx file, or a SavedModel "
        "folder.",
        show_default=False,
    ),
]


@command(app)
def prune(target: Target, options: StepOptions) -> Result:
    """Apply the config's methods to the student, and fine-tune it on the soft labels."""
    from compress.run.execution import take
    from compress.run.files import method_chain
    from configs.errors import UserError

    directory, experiment = open_run(target, options)
    names = [name for name, _ in method_chain(experiment)]
    if not names:
        raise UserError(
            f"{target} names no method. Name one under compress.methods, or\n"
            f"  compress prune {target} --set 'compress.methods=[magnitude]'"
        )
    take(directory, experiment, ["prune"], target=target, force=options.force)
    paths = {name: str(directory.model(name)) for name in names}
    return Result({"models": paths}, "\n".join(paths.values()))


@command(app)
def export(target: Target, options: StepOptions) -> Result:
    """Write the config's float32 files."""
    return _write_files("export", target, options)


@command(app)
def quantize(
    target: ModelTarget,
    options: StepOptions,
    contract: ContractOptions,
    limits: LimitOptions,
    code: CodeOptions,
    edges: EdgeOptions,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="For a model: folder of class folders, or of photos alone."),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            help="For a model: int8, onnx.int8, dynamic ..., with options as in "
            "int8:num_images=200; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="For a model: where the files go.")
    ] = None,
    least_runtime: Annotated[
        str | None,
        typer.Option(
            "--least-runtime",
            metavar="tflite=VERSION",
            help="For a model: the oldest runtime that has to open the files, as tflite=2.14.",
        ),
    ] = None,
    qat_epochs: Annotated[
        int | None,
        typer.Option(
            "--qat-epochs",
            min=1,
            help="For a search: if rounding alone does not hold the limits, train the model for "
            "int8 for this many epochs.",
        ),
    ] = None,
) -> Result:
    """Write the config's quantized files, or those of a model (.keras, .h5, SavedModel, .onnx)."""
    from configs.artifacts import ending, is_keras_model

    is_onnx = ending(target) == ".onnx"
    if is_onnx:
        refuse(target, ONLY_KERAS, limits, code, edges, qat_epochs=qat_epochs)
        refuse(target, ONLY_KERAS, least_runtime=least_runtime)
    if not is_keras_model(target) and not is_onnx:
        refuse(target, ONLY_MODEL, contract, limits, code, edges, data=data, recipe=recipe, out=out)
        refuse(target, ONLY_MODEL, qat_epochs=qat_epochs, least_runtime=least_runtime)
        return _write_files("quantize", target, options)
    refuse(target, ONLY_RUN, options)
    budget = limits.budget()
    if recipe or budget is None:
        refuse(target, ONLY_SEARCH, qat_epochs=qat_epochs)
    from compress.standalone import quantize_model

    made = quantize_model(
        Path(target),
        data=data,
        recipes=recipe or ([] if budget else ["int8"]),
        out=out,
        budget=budget,
        contract=contract.choice(),
        edges=edges.given(),
        qat_epochs=qat_epochs,
        imports=code.import_ or [],
        allow_lambda=bool(code.allow_lambda),
        least_runtime=_parsed_runtime(least_runtime),
    )
    return _result_of(made)


@command(app)
def bundle(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN | FILE", help="A run directory with a report, or a .tflite or .onnx file."
        ),
    ],
    contract: ContractOptions,
    file: Annotated[
        str | None,
        typer.Option(help="For a run: one of its files.", show_default="chosen"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="For a file: folder of photos that test it."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="ZIP",
            help="The bundle.",
            show_default="RUN/bundles/FILE.zip, or FILE.zip",
        ),
    ] = None,
    photos: Annotated[
        bool, typer.Option("--photos/--no-photos", help="Whether test photos are handed out.")
    ] = True,
) -> Result:
    """Write a ZIP for the people who build the app: the file, its contract, photos and code."""
    from configs.artifacts import ending

    if ending(target) in (".tflite", ".onnx"):
        refuse(str(target), ONLY_RUN, file=file)
        refuse(str(target), ONE_ANSWER, output_layer=contract.output_layer)
        refuse(str(target), ONE_CONTRACT, contract=contract.contract)
        from compress.bundle.bundle import bundle_file

        made = bundle_file(target, data=data, choice=contract.choice(), out=out, photos=photos)
    else:
        refuse(str(target), ONLY_FILE, contract, data=data)
        from compress.bundle.bundle import bundle_run
        from configs.run_dir import RunDir

        made = bundle_run(RunDir(target), file, out=out, photos=photos)
    value = {
        "bundle": str(made.path),
        "file": made.file,
        "num_photos": made.num_photos,
        "sha256": made.sha256,
    }
    return Result(value, f"{made.path}: {made.file} with {made.num_photos} test photos")


def _parsed_runtime(text: str | None) -> "LeastRuntime":
    """The value of --least-runtime.

    Raises:
        UserError: it is not tflite=VERSION.
    """
    from pydantic import ValidationError

    from configs.errors import UserError
    from configs.schema.files import LeastRuntime

    if text is None:
        return LeastRuntime()
    name, _, version = text.partition("=")
    try:
        return LeastRuntime.model_validate({name: version})
    except ValidationError:
        raise UserError(
            f"--least-runtime is {text!r}; expected the name and version of a runtime, as "
            "tflite=2.14."
        ) from None


def _result_of(made: "Quantized") -> Result:
    from commands.reports import failure_lines
    from commands.tables import candidates_table, files_table

    chosen = made.verdict["chosen_file"] if made.verdict and made.holds_limits else None
    lines = [files_table(made.rows, chosen)] if made.rows else []
    if made.verdict and "candidates" in made.verdict:
        lines = [candidates_table(made.verdict["candidates"])] + [
            f"\non the test photos:\n{table}" for table in lines
        ]
    if made.verdict:
        lines.append(f"\n* {chosen}: {made.verdict['reason']}" if chosen else f"\n{made.failure}")
    if any(row.get("agreement") for row in made.rows):
        lines.append(NO_LABELS)
    lines += failure_lines(made.failures)
    value = {"files": made.rows, "verdict": made.verdict}
    if made.failures:
        value["failures"] = made.failures
    failed = bool(made.failures) or not made.holds_limits
    return Result(value, "\n".join(lines), exit_code=1 if failed else 0)


def _write_files(step: str, target: str, options: StepOptions) -> Result:
    from commands.reports import failure_lines
    from compress.run.execution import take

    directory, experiment = open_run(target, options)
    taken = take(directory, experiment, [step], target=target, force=options.force)
    paths = [str(directory.file(name)) for m in taken.manifests for name in m["outputs"]]
    text = "\n".join([*paths, *failure_lines(taken.failures)])
    value = {"files": paths, **({"failures": taken.failures} if taken.failures else {})}
    return Result(value, text, exit_code=1 if taken.failures else 0)
