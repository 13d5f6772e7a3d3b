"""The functions for notebooks: run an experiment, quantize a model object, evaluate a file."""

import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import keras

from compress.bare_files import score_files, time_files
from compress.config_choices import REGISTRIES
from compress.notebook.results import FileResult, ModelResult, QuantizeResult, RunResult
from compress.run.measure import write_run_report
from compress.run.whole_run import take_all
from compress.standalone import quantize_model
from configs.contract import RANGES, PixelRange, Statement
from configs.loading.targets import open_run
from configs.schema.choice import Choice
from configs.schema.files import BudgetConfig
from eval.contract.choice import ContractChoice

log = logging.getLogger("potstill")

NOTHING_STATED = Statement()


def run_experiment(
    target: str | Path,
    *,
    run: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    force: Sequence[str] = (),
) -> RunResult:
    """A whole run, from photos to measured files: what `distill run` does.

    What is up to date is not done again, so a cell that is executed twice trains once.

    Args:
        target: a config file, a folder of photos, a run directory, or the name of a bundled config,
            as in "photos_lite".
        run: the run directory; None for the usual one, runs/ and the name of the target.
        settings: settings of the config by their keys, as in {"student.epochs": 30}.
        force: steps to redo although they are up to date.

    Raises:
        UserError: the target or a setting is wrong; nothing was trained.
        StepFailed: a step failed; those before it are kept.
    """
    overrides = [
        f"{key}={json.dumps(value, default=str)}" for key, value in (settings or {}).items()
    ]
    with _notes():
        directory, experiment = open_run(
            str(target),
            run=Path(run) if run is not None else None,
            overrides=overrides,
            registries=lambda: REGISTRIES,
        )
        failures = take_all(directory, experiment, target=str(target), force=list(force)).failures
        report = write_run_report(directory, experiment, without=tuple(failures))
    verdict = report["verdict"]
    return RunResult(
        path=directory.path,
        models=tuple(
            ModelResult(
                name=row["name"],
                backbone=row["backbone"],
                num_parameters=row["num_parameters"],
                **{name: row["accuracy"][name] for name in ("top1", "top1_low", "top1_high")},
            )
            for row in report["models"]
        ),
        files=tuple(FileResult.of_row(row, directory.path) for row in report["files"]),
        chosen=verdict["chosen_file"],
        reason=verdict["reason"],
        failures=failures,
        report=report,
    )


def quantize(
    model: keras.Model | str | Path,
    photos: str | Path | None,
    *,
    out: str | Path = ".",
    recipes: Sequence[str] = (),
    pixels: PixelRange | None = None,
    contract: Statement = NOTHING_STATED,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    max_bytes: int | None = None,
) -> QuantizeResult:
    """Files of a Keras model, measured: what `compress quantize MODEL` does.

    Args:
        model: a Keras 3 model, or the path of a model file. The model stays as it is.
        photos: a folder of class folders. Its training part calibrates, its test part measures.
            None for recipes that need no photos, as float32.
        out: the folder of the files. They are named after the model.
        recipes: as in "int8", "onnx.int8" or "int8:num_images=200". Without any, "int8", or with a
            limit a search among all useful recipes.
        pixels: the range of pixels that the model expects; None for 0..255.
        contract: what else the model expects of a photo.
        max_drop: largest loss of top-1; 0.005 is half a point.
        max_latency_ms: largest median latency on this machine.
        max_bytes: largest size.

    Raises:
        UserError: the model, a recipe or the folder does not fit.
        StepFailed: no file could be made.
    """
    limits = {"max_drop": max_drop, "max_latency_ms": max_latency_ms, "max_bytes": max_bytes}
    stated = {name: value for name, value in limits.items() if value is not None}
    budget = BudgetConfig.model_validate(stated) if stated else None
    with _notes(), _saved(model) as path:
        made = quantize_model(
            path,
            data=Path(photos) if photos is not None else None,
            recipes=list(recipes) or ([] if budget else ["int8"]),
            out=Path(out).absolute(),
            budget=budget,
            contract=_choice(pixels, contract),
        )
    verdict = made.verdict or {}
    return QuantizeResult(
        files=tuple(map(FileResult.of_row, made.rows)),
        chosen=verdict.get("chosen_file") if made.holds_limits else None,
        reason=verdict.get("reason", ""),
        failures=made.failures,
    )


def evaluate_file(
    file: str | Path,
    photos: str | Path,
    *,
    pixels: PixelRange | None = None,
    contract: Statement = NOTHING_STATED,
    num_threads: int = 1,
    num_runs: int = 0,
) -> FileResult:
    """A .tflite or .onnx file, scored on the test part of a folder: what `evaluate accuracy` does.

    Args:
        photos: a folder of class folders.
        pixels, contract: as in `quantize`, for a file that does not say it itself.
        num_threads: that the file may use.
        num_runs: how often the file is timed on this machine; 0 for not at all.

    Raises:
        UserError: the file or the folder does not fit.
    """
    path = Path(file)
    choice = _choice(pixels, contract)
    with _notes():
        (row,) = score_files([path], data=Path(photos), choice=choice, num_threads=num_threads)
        if num_runs:
            device = Choice(name="local")
            (timed,) = time_files([path], device, num_threads=num_threads, num_runs=num_runs)
            row = {**row, "latency": timed["latency"]}
    return FileResult.of_row(row)


def _choice(pixels: PixelRange | None, contract: Statement) -> ContractChoice:
    if pixels is None:
        return ContractChoice(contract)
    # What Keras calls caffe has blue first.
    channels = "bgr" if pixels == "caffe" else contract.channels
    return ContractChoice(replace(contract, pixels=RANGES[pixels], channels=channels))


@contextmanager
def _saved(model: keras.Model | str | Path) -> Iterator[Path]:
    """The path of a model; an object is saved for as long as the block runs."""
    if isinstance(model, str | Path):
        yield Path(model)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model.name}.keras"
        model.save(path)
        yield path


@contextmanager
def _notes() -> Iterator[None]:
    """Show what the log says below the cell, unless the program shows it already.

    A run adds a handler for its `log.jsonl`, which a program needs for one run alone.
    """
    before, level, propagate = list(log.handlers), log.level, log.propagate
    if not any(type(handler) is not logging.FileHandler for handler in before):
        log.addHandler(logging.StreamHandler(sys.stdout))
        log.setLevel(logging.INFO)
        log.propagate = False  # TensorFlow may give the root logger a handler of its own
    try:
        yield
    finally:
        for handler in log.handlers[:]:
            if handler not in before:
                log.removeHandler(handler)
                handler.close()
        log.setLevel(level)
        log.propagate = propagate
