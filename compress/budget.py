"""The search for the fastest TFLite file of a model within limits, from the simplest file up."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from compress.graph.classifier import image_size_of
from compress.int8.calibration import calibration_photos
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from configs.contract import InputContract
from configs.errors import UserError
from configs.records import to_json
from configs.schema.choice import Choice
from configs.schema.files import BudgetConfig
from distill.data.manifest import Examples
from eval.choice.budget import FileFacts, Limits, shortfalls
from eval.choice.drop import RoundingDrop, drop_by_rounding
from eval.choice.file_to_ship import MeasuredFile, Verdict, choose
from eval.devices.probe import ModelFileError
from eval.footprint import file_bytes
from eval.scoring.predictions import Photos, file_probabilities
from eval.timing.latency import Latency
from eval.timing.results import time_together

log = logging.getLogger("potstill")

MIXED_SHARE = 0.8
"""Share of the predicted cost of rounding that a mixed file saves with operations in float. 9 of
240 operations raised the agreement of EfficientNetB0 from 92.3 to 96.3 % (docs/LOG.md)."""
NUM_WARMUP = 10
NUM_RUNS = 200


@dataclass(frozen=True)
class Candidate:
    """One way to make a file.

    Attributes:
        name: the end of the file's name, behind the name of the model.
        trained: whether the model is trained for int8 first, if the caller allows it.
        baseline: whether it only serves as a comparison: it does not end the search. Among the
            others, a later one is no faster than an earlier one wherever int8 is fast.
    """

    name: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    trained: bool = False
    baseline: bool = False

    @property
    def choice(self) -> Choice:
        """The recipe with all its options."""
        return Choice(name=self.recipe, options=RECIPES.check(self.recipe, self.options))


LADDER = [
    Candidate("float32", "tflite.float32", baseline=True),
    Candidate("dynamic", "tflite.dynamic", baseline=True),
    Candidate("plain-int8", "tflite.int8", {"equalize": "off"}),
    Candidate("int8", "tflite.int8"),
    Candidate("mixed-int8", "tflite.int8", {"keep_float": MIXED_SHARE}),
    Candidate("qat-int8", "tflite.int8", trained=True),
    Candidate("weights", "tflite.weights"),
    Candidate("int16", "tflite.int16"),
]


@dataclass
class CandidateResult:
    """A candidate and what was measured of it.

    Attributes:
        file: None if it was not made.
        facts: the file's manifest.
        validation: the drop on the validation photos; None if the file was not made.
        p50_ms: None if it was turned down before it was timed.
        turned_down: why it was not chosen; None for the chosen one.
    """

    candidate: Candidate
    file: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    validation: RoundingDrop | None = None
    p50_ms: float | None = None
    turned_down: str | None = None

    def describe(self) -> dict[str, Any]:
        """For the verdict of a search."""
        return {
            "name": self.file.name if self.file else self.candidate.name,
            "recipe": self.candidate.recipe,
            "file_bytes": file_bytes(self.file) if self.file else None,
            "validation": to_json(self.validation) if self.validation else None,
            "p50_ms": self.p50_ms,
            "turned_down": self.turned_down,
        }


def search(
    model: keras.Model,
    *,
    budget: BudgetConfig,
    write: Callable[[Conversion, Candidate], tuple[Path, dict[str, Any]]],
    train: Examples,
    validation: Photos,
    validation_probs: np.ndarray,
    contract: InputContract,
    train_for_int8: Callable[[keras.Model], keras.Model] | None = None,
) -> tuple[list[CandidateResult], dict[Path, Latency], Verdict]:
    """Make candidates from the simplest up until one holds the limits; time those that do.

    Args:
        write: writes the file of a candidate; returns it with its manifest.
        train: the photos to calibrate on.
        validation_probs: of the model, on the validation photos.
        contract: of its files.
        train_for_int8: quantization-aware training; None leaves such candidates out.

    Returns:
        Every candidate with its result; the latencies of the files that were timed; the verdict.

    Raises:
        UserError: not even a float32 file can be made.
    """
    plain = Conversion(model, calibration_photos(train, image_size_of(model), contract))
    results = [CandidateResult(c) for c in LADDER if train_for_int8 or not c.trained]
    for result in results:
        candidate, parent = result.candidate, plain
        result.turned_down = _needless(result, results)
        if result.turned_down:
            continue
        log.info("search: making %s", candidate.name)
        try:
            if candidate.name == "int8" and not _is_equalized(plain, candidate):
                result.turned_down = "not made: equalizing the model saves nothing"
                continue
            if candidate.trained and train_for_int8:
                parent = Conversion(train_for_int8(parent.model), plain.photos)
            result.file, result.facts = write(parent, candidate)
            probs = file_probabilities(result.file, validation, num_threads=1, contract=contract)
        except (UserError, ModelFileError) as error:
            if candidate.name == "float32":
                raise  # the model is at fault, not the recipe
            result.turned_down = f"cannot be made: {str(error).splitlines()[0]}"
        else:
            rounding = drop_by_rounding(probs, validation_probs, validation.known_labels)
            # A trained candidate is another model: a changed answer may be a better one.
            is_other = candidate.trained and validation.is_labelled
            result.validation = rounding.by_count() if is_other else rounding
            facts = FileFacts(file_bytes(result.file), "validation", drop=result.validation.drop)
            result.turned_down = "; ".join(shortfalls(facts, Limits.of_budget(budget))) or None
        outcome = result.turned_down or "is accurate and small enough"
        log.info("search: %s %s", candidate.name, outcome)
    return results, *_fastest(results, budget)


def _is_equalized(conversion: Conversion, candidate: Candidate) -> bool:
    """Whether the int8 file of a candidate differs from that without equalization."""
    options = candidate.choice.options
    calibrated = conversion.calibrated(options["num_images"], equalize=options["equalize"])
    return bool(calibrated.equalized)


def _needless(result: CandidateResult, results: list[CandidateResult]) -> str | None:
    """Why a candidate need not be made; None if it must."""
    holding = [r for r in results if r.file and not r.turned_down and not r.candidate.baseline]
    if holding and not result.candidate.baseline:
        name = holding[0].candidate.name
        return f"not made: {name} is accurate and small enough, and this one is no faster"
    return None


def _fastest(
    results: list[CandidateResult], budget: BudgetConfig
) -> tuple[dict[Path, Latency], Verdict]:
    """Time the candidates that hold the other limits, and choose among them."""
    holding = {result.file: result for result in results if result.file and not result.turned_down}
    latency: dict[Path, Latency] = {}
    if holding:
        latency = time_together(
            list(holding), num_threads=1, num_warmup=NUM_WARMUP, num_runs=NUM_RUNS
        )
    files = [
        MeasuredFile(file.name, file_bytes(file), result.validation.drop, latency[file])
        for file, result in holding.items()
        if result.validation
    ]
    limits = Limits.of_budget(budget)
    reasons = {file.name: "; ".join(shortfalls(file.facts, limits)) for file in files}
    if all(reasons.values()):
        verdict = Verdict(None, "no candidate holds the limits", reasons, holds_limits=False)
    else:
        verdict = choose(files, budget=budget, model="the float model")
    for file, result in holding.items():
        result.p50_ms = latency[file].p50_ms
        result.turned_down = verdict.turned_down.get(file.name)
    return latency, verdict
