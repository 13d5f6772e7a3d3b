"""The last mile alone: a `.keras` model and a folder of photos become measured files."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.budget import (
    NUM_RUNS,
    NUM_WARMUP,
    Candidate,
    search,
)
from compress.foreign.contracts import NO_CHOICE, ContractChoice, matched, settle_model
from compress.foreign.door import with_output_layer, wrapped
from compress.foreign.load import load_foreign
from compress.graph.classifier import image_size_of
from compress.graph.inference import weights_sha256
from compress.int8.calibration import calibration_photos
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from compress.recipes.write import file_name, write_file
from compress.self_taught import self_taught_qat
from configs.artifacts import digest, path_sha256
from configs.contract import InputContract
from configs.errors import StepFailed, UserError, failure_of, ran_out_of_memory
from configs.records import from_json, to_json
from configs.resume import Built, Step, Workspace, take_step
from configs.schema import BudgetConfig, Choice, LeastRuntime
from distill.data.manifest import Examples
from distill.data.scan import scan_folder
from distill.predictions import model_probabilities
from eval.choice.drop import drop_of
from eval.choice.file_to_ship import MeasuredFile, choose
from eval.footprint import file_bytes
from eval.needs import Runtime
from eval.scoring.file_rows import FileRow, References, file_row
from eval.scoring.predictions import Photos, file_probabilities
from eval.timing.latency import Latency
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
    qat_epochs: int | None = None,
    imports: Sequence[Path] = (),
    allow_lambda: bool = False,
    least_runtime: LeastRuntime = LeastRuntime(),  # noqa: B008 - frozen
) -> Quantized:
    """Convert a model by some recipes, or search for the fastest file within a budget.

    The training part of `data` calibrates the files, the validation part chooses among them, and
    the test part scores them.

    Args:
        recipes: `int8` stands for `tflite.int8`. With a budget, the choice is among these recipes;
            without any recipe, `compress/budget.py` searches.
        out: where the files go; None for the folder of the model.
        budget: the limits that the chosen file must hold.
        contract: what the user says of the model.
        qat_epochs: for how long the search may train the model for int8; None for not at all.
        imports: Python files that define layers of the model.
        allow_lambda: whether the Lambda layers of the model may run.
        least_runtime: the oldest runtime that has to open the files.

    Raises:
        UserError: a name, the model or the folder does not fit.
        StepFailed: no file could be made.
    """
    path = path.absolute()  # the name of the folder "." is not "."
    choices = [_choice(name) for name in dict.fromkeys(recipes)]
    if data is None:
        raise UserError("--data is missing. Give a folder with one folder of photos per class.")
    model = load_foreign(path, imports=imports, allow_lambda=allow_lambda)
    model = with_output_layer(model, contract.statement.output_layer)
    splits = scan_folder(data)
    settled = settle_model(model, path, contract, splits)
    model = wrapped(model, settled)
    image_size_of(model)
    work = _Work(path, model, splits, settled, out or path.parent, least_runtime)
    if not choices:
        assert budget is not None, "neither recipes nor a budget"
        train = None if qat_epochs is None else partial(_trained, work, path, data, qat_epochs)
        return _searched(work, budget, train)
    conversion = Conversion(
        model, calibration_photos(work.train, image_size_of(model), work.contract)
    )
    facts: dict[Path, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    for choice in choices:
        file = work.folder / file_name(work.name, choice.name)
        try:
            facts[file] = work.write(conversion, file, choice, work.name)
        except OSError:
            raise  # it is not the recipe's fault, and the next file would fail too
        except Exception as error:
            if len(choices) == 1 or ran_out_of_memory(error):
                raise  # nothing else is left to finish
            failures[file.name] = failure_of(error)
            log.error("%s failed: %s", file.name, failures[file.name])
    if not facts:
        raise StepFailed("\n".join(f"{name} failed: {why}" for name, why in failures.items()))
    return replace(_measured(work, facts, budget), failures=failures)


class _Work:
    """One model, the photos that it is measured on, and the folder of its files."""

    def __init__(
        self,
        path: Path,
        model: Any,
        splits: dict[str, Examples],
        contract: InputContract,
        folder: Path,
        least_runtime: LeastRuntime,
    ) -> None:
        num_classes = max(model.output_shape[-1], 2)  # a single score separates two classes
        splits = {
            split: matched(examples, contract.labels, num_classes, path)
            for split, examples in splits.items()
        }
        # A SavedModel is a folder, and its name may have a dot in it.
        self.name = path.name if path.is_dir() else path.stem
        self.model, self.folder = model, folder
        self.came_as, self.contract = contract, contract.behind_the_door()
        self.train, self.least_runtime = splits["train"], least_runtime
        self.inputs = {
            "model": path_sha256(path),
            "photos": digest([self.train.ids, self.train.labels.tolist(), self.train.classes]),
            "contract": contract.describe(),
        }
        self.photos = {
            split: Photos(split, splits[split].paths, splits[split].labels)
            for split in ("validation", "test")
        }
        self.probs = {
            split: model_probabilities(
                model, splits[split], name=f"{self.name} {split}", contract=self.contract
            )
            for split in self.photos
        }

    def write(
        self, conversion: Conversion, file: Path, choice: Choice, parent: str
    ) -> dict[str, Any]:
        """Write one file and its manifest; returns what the manifest says.

        Args:
            parent: the name of the model: the given one, or what was made from it.
        """
        inputs = {
            **self.inputs,
            "source": parent,
            "weights": weights_sha256(conversion.model),
            "recipe": choice.model_dump(mode="json"),
        }
        if self.least_runtime.tflite:
            inputs["least_runtime"] = self.least_runtime.tflite

        def build(workspace: Workspace) -> Built:
            facts = write_file(
                conversion,
                file,
                choice,
                parent=parent,
                classes=self.train.classes,
                contract=self.came_as,
                least_runtime=self.least_runtime,
            )
            return [file], facts

        step = Step(file.name, file.with_name(file.name + ".json"), inputs, build)
        if file.exists() and not step.manifest.exists() and not step.was_begun:
            raise UserError(
                f"{file} exists and Potstill did not write it. Move it away, or name a folder "
                "with --out."
            )

        return take_step(step)

    def answers(self, file: Path, split: str) -> np.ndarray:
        """Probabilities of one file on the photos of a split."""
        return file_probabilities(file, self.photos[split], num_threads=1, contract=self.contract)

    def row(self, file: Path, facts: dict[str, Any], latency: Latency) -> FileRow:
        """The row of one file, scored on the test photos."""
        return file_row(
            file,
            recipe=facts["recipe"],
            parent=facts["source"],
            probs=self.answers(file, "test"),
            photos=self.photos["test"],
            references=References(parent=self.probs["test"], student=self.probs["test"]),
            latency=[latency],
            known_zip_bytes=facts.get("zip_bytes"),
            runtime=from_json(Runtime, facts["runtime"]) if "runtime" in facts else None,
        )


def _choice(name: str) -> Choice:
    full = name if "." in name else f"tflite.{name}"
    return Choice(name=full, options=RECIPES.check(full, {}))


def _measured(
    work: _Work, facts: dict[Path, dict[str, Any]], budget: BudgetConfig | None
) -> Quantized:
    latency = time_together(list(facts), num_threads=1, num_warmup=NUM_WARMUP, num_runs=NUM_RUNS)
    rows = [work.row(file, file_facts, latency[file]) for file, file_facts in facts.items()]
    if budget is None:
        return Quantized(to_json(rows))
    own, labels = work.probs["validation"], work.photos["validation"].labels
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


def _trained(work: _Work, path: Path, data: Path, epochs: int, model: Any) -> Any:
    """A model of the search after quantization-aware training."""
    folder = work.folder / f"{work.name}-qat"
    return self_taught_qat(
        model, teacher=path, data=data, epochs=epochs, folder=folder, contract=work.came_as
    )


def _searched(work: _Work, budget: BudgetConfig, train: Callable[[Any], Any] | None) -> Quantized:
    def write(conversion: Conversion, candidate: Candidate) -> tuple[Path, dict[str, Any]]:
        file = work.folder / f"{work.name}-{candidate.name}.tflite"
        parent = work.name if conversion.model is work.model else f"{work.name}-qat"
        return file, work.write(conversion, file, candidate.choice, parent)

    results, latency, verdict = search(
        work.model,
        budget=budget,
        write=write,
        train=work.train,
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
