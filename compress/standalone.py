"""The last mile alone: a Keras model and a folder of photos become measured files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from compress.budget import (
    NUM_RUNS,
    NUM_WARMUP,
    Candidate,
    search,
)
from compress.foreign.contracts import note_drawn_photos, settle_model
from compress.foreign.door import with_fixed_size, with_output_layer, wrapped
from compress.foreign.load import load_foreign
from compress.graph.classifier import image_size_of
from compress.model_files import ModelFiles
from compress.onnx.last_mile import check_onnx_recipes, onnx_recipe, quantize_onnx_model
from compress.recipe_words import NO_EDGES, recipe_choices, with_edges
from compress.recipes.conversion import Conversion
from compress.recipes.write import file_name
from compress.self_taught import self_taught_qat
from configs.artifacts import ending
from configs.errors import (
    StepFailed,
    UserError,
    failure_of,
    ran_out_of_memory,
    ran_out_of_space,
)
from configs.records import to_json
from configs.resume import Facts
from configs.schema.choice import Choice
from configs.schema.files import BudgetConfig, LeastRuntime
from distill.data.manifest import Examples
from distill.data.scan import scan_flat_folder, scan_folder
from distill.data.sources.folders import is_flat
from eval.choice.drop import drop_of
from eval.choice.file_to_ship import MeasuredFile, choose
from eval.contract.choice import NO_CHOICE, ContractChoice
from eval.footprint import file_bytes
from eval.timing.results import time_together

log = logging.getLogger("potstill")

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Quantized:
    """What became of a model.

    Attributes:
        rows: of the files, as in report.json.
        verdict: which file to choose; None without limits. After a search with all `candidates`.
        holds_limits: whether a file holds the limits; true without limits.
        failures: files that could not be made, and why.
    """

    rows: Rows
    verdict: dict[str, Any] | None = None
    holds_limits: bool = True
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def failure(self) -> str:
        """Why no file was chosen, for people."""
        reason = self.verdict["reason"] if self.verdict else ""
        return f"no file was chosen: {reason}. Raise a limit, or leave one out."


def quantize_model(
    path: Path,
    *,
    data: Path | None,
    recipes: list[str],
    out: Path | None,
    budget: BudgetConfig | None,
    contract: ContractChoice = NO_CHOICE,
    edges: Mapping[str, str] = NO_EDGES,
    qat_epochs: int | None = None,
    imports: Sequence[Path] = (),
    allow_lambda: bool = False,
    least_runtime: LeastRuntime = LeastRuntime(),  # noqa: B008 - frozen
) -> Quantized:
    """Convert a model by some recipes, or search for the fastest file within a budget.

    The training part of `data` calibrates the files, the validation part chooses among them, and
    the test part scores them.

    Args:
        data: a folder of class folders. A flat folder of photos calibrates, and shows whether the
            files answer as the model. None for recipes that need no photos.
        recipes: with their options, as in `int8:num_images=200`. With a budget, the choice is
            among these recipes; without any recipe, `compress/budget.py` searches.
        out: where the files go; None for the folder of the model.
        budget: the limits that the chosen file must hold.
        contract: what the user says of the model.
        edges: `input_type` and `output_type` of the recipes that have them.
        qat_epochs: for how long the search may train the model for int8; None for not at all.
        imports: Python files that define layers of the model.
        allow_lambda: whether the Lambda layers of the model may run.
        least_runtime: the oldest runtime that has to open the files.

    Raises:
        UserError: a name, the model or the folder does not fit.
        StepFailed: no file could be made.
    """
    path = path.absolute()  # the name of the folder "." is not "."
    if ending(path) == ".onnx":
        return _quantized_onnx(path, data, recipes, out, budget, contract)
    choices = recipe_choices(recipes, edges)
    if data is None and budget is not None:
        raise UserError("a limit needs photos to hold it on. Add --data with a folder of photos.")
    model = load_foreign(path, imports=imports, allow_lambda=allow_lambda)
    model = with_output_layer(model, contract.statement.output_layer)
    splits = None
    if data is not None:
        splits = scan_flat_folder(data) if is_flat(data) else scan_folder(data)
        if splits["test"].classes:
            note_drawn_photos(path, data)
    settled = settle_model(model, path, contract, splits)
    model = wrapped(with_fixed_size(model), settled)
    image_size_of(model)
    work = ModelFiles(path, model, splits, settled, out or path.parent, least_runtime, imports)
    if not choices:
        assert budget is not None, "neither recipes nor a budget"
        assert data is not None, "a budget without photos"
        if qat_epochs is not None:
            _check_trainable(work, splits)
        train = None if qat_epochs is None else partial(_trained, work, path, data, qat_epochs)
        return _searched(work, budget, train, edges)
    conversion = Conversion(model, work.calibration())
    facts, failures = _written(work, conversion, choices)
    return replace(_measured(work, facts, budget), failures=failures)


def _written(
    work: ModelFiles, conversion: Conversion, choices: list[Choice]
) -> tuple[dict[Path, Facts], dict[str, str]]:
    """The files that could be written, with what their manifests say; and why others could not.

    Raises:
        StepFailed: there are none.
    """
    facts: dict[Path, Facts] = {}
    failures: dict[str, str] = {}
    for choice in choices:
        file = work.folder / file_name(work.name, choice.name)
        try:
            facts[file] = work.write(conversion, file, choice, work.name)
        except OSError:
            raise  # it is not the recipe's fault, and the next file would fail too
        except Exception as error:
            if len(choices) == 1 or ran_out_of_memory(error) or ran_out_of_space(error):
                raise  # nothing else is left to finish
            failures[file.name] = failure_of(error)
            log.error("%s failed: %s", file.name, failures[file.name])
    if not facts:
        raise StepFailed("\n".join(f"{name} failed: {why}" for name, why in failures.items()))
    return facts, failures


def _check_trainable(work: ModelFiles, splits: dict[str, Examples] | None) -> None:
    if splits is None or not splits["train"].classes:
        raise UserError("--qat-epochs trains on labels, and the photos of --data have none.")
    if work.classes != splits["train"].classes:
        raise UserError(
            "--qat-epochs trains with the folders of --data in alphabetical order, and the model "
            f"answers in the order {', '.join(work.classes[:20])}. Leave --qat-epochs out."
        )


def _quantized_onnx(
    path: Path,
    data: Path | None,
    recipes: list[str],
    out: Path | None,
    budget: BudgetConfig | None,
    contract: ContractChoice,
) -> Quantized:
    if budget is not None:
        raise UserError("limits search among the files of a Keras model. Leave them out.")
    words = [f"onnx.{word}" if "." not in word.partition(":")[0] else word for word in recipes]
    names = [word.partition(":")[0] for word in words]
    check_onnx_recipes(names, path)
    recipe = onnx_recipe(recipe_choices(words, {}))
    rows = quantize_onnx_model(
        path,
        recipe,
        data=data,
        out=out or path.parent,
        contract=contract,
        num_warmup=NUM_WARMUP,
        num_runs=NUM_RUNS,
    )
    return Quantized(rows)


def _measured(work: ModelFiles, facts: dict[Path, Facts], budget: BudgetConfig | None) -> Quantized:
    try:
        latency = time_together(
            list(facts), num_threads=1, num_warmup=NUM_WARMUP, num_runs=NUM_RUNS
        )
    except StepFailed as error:
        raise type(error)(
            f"{error}\nThe files are written to {work.folder}, but not measured. The same command "
            "measures them."
        ) from error
    rows = [work.row(file, file_facts, latency[file]) for file, file_facts in facts.items()]
    if budget is None:
        return Quantized(to_json(rows))
    own, labels = work.probs["validation"], work.photos["validation"].known_labels
    files = [
        MeasuredFile(
            file.name,
            file_bytes(file),
            drop_of(work.answers(file, "validation"), own, own, labels),
            latency[file],
        )
        for file in facts
    ]
    verdict = choose(files, budget=budget, model="the float model")
    return Quantized(to_json(rows), to_json(verdict), holds_limits=verdict.holds_limits)


def _trained(work: ModelFiles, path: Path, data: Path, epochs: int, model: Any) -> Any:
    """A model of the search after quantization-aware training."""
    folder = work.folder / f"{work.name}-qat"
    return self_taught_qat(
        model, teacher=path, data=data, epochs=epochs, folder=folder, contract=work.came_as
    )


def _searched(
    work: ModelFiles,
    budget: BudgetConfig,
    train: Callable[[Any], Any] | None,
    edges: Mapping[str, str],
) -> Quantized:
    assert work.to_calibrate is not None, "a search without photos"

    def write(conversion: Conversion, candidate: Candidate) -> tuple[Path, Facts]:
        file = work.folder / f"{work.name}-{candidate.name}.tflite"
        parent = work.name if conversion.model is work.model else f"{work.name}-qat"
        return file, work.write(conversion, file, with_edges(candidate.choice, edges), parent)

    results, latency, verdict = search(
        work.model,
        budget=budget,
        write=write,
        train=work.to_calibrate,
        validation=work.photos["validation"],
        validation_probs=work.probs["validation"],
        contract=work.contract,
        train_for_int8=train,
    )
    facts = {result.file: result.facts for result in results if result.file}
    rows = [work.row(file, facts[file], row) for file, row in latency.items()]
    candidates = [candidate.describe() for candidate in results]
    return Quantized(
        to_json(rows),
        {**to_json(verdict), "candidates": candidates},
        holds_limits=verdict.holds_limits,
    )
