"""The search for the fastest TFLite file of a model within a budget, from the cheapest up."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from compress.graph.graph import Graph, image_size_of
from compress.int8.calibration import calibration_photos
from compress.int8.equalization import spans_of
from compress.methods.equalize import equalize
from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from configs.errors import UserError
from configs.records import to_json
from configs.schema import BudgetConfig, Choice
from distill.data.manifest import Examples
from eval.choice.budget import FileFacts, Limits, shortfalls
from eval.choice.drop import RoundingDrop, drop_by_rounding
from eval.choice.file_to_ship import MeasuredFile, Verdict, choose
from eval.devices.probe import ModelFileError
from eval.footprint import file_bytes
from eval.pixels import Pixels
from eval.scoring.predictions import Photos, file_probabilities
from eval.timing.latency import Latency
from eval.timing.results import timed

log = logging.getLogger("potstill")

MIXED_SHARE = 0.8
"""Of what rounding is predicted to cost, what a mixed file saves by operations in float: 9 of 240
raised the agreement of EfficientNetB0 from 92.3 to 96.3 % (docs/LOG.md)."""
NUM_WARMUP = 10
NUM_RUNS = 200


@dataclass(frozen=True)
class Candidate:
    """One rung of the ladder: how a file is made.

    Attributes:
        name: what its file is called by, behind the name of the model.
        equalized: made of the equalized model, where equalizing saves something.
        trained: learns to be rounded first, where the caller can have it trained.
        baseline: what the others have to beat. That one of these holds the budget ends nothing;
            none of the others is faster than those before it wherever int8 is fast.
    """

    name: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    equalized: bool = False
    trained: bool = False
    baseline: bool = False

    @property
    def choice(self) -> Choice:
        """The recipe with all its options."""
        return Choice(name=self.recipe, options=RECIPES.check(self.recipe, self.options))


LADDER = [
    Candidate("float32", "tflite.float32", baseline=True),
    Candidate("dynamic", "tflite.dynamic", baseline=True),
    Candidate("int8", "tflite.int8"),
    Candidate("equalize-int8", "tflite.int8", equalized=True),
    Candidate("mixed-int8", "tflite.int8", {"keep_float": MIXED_SHARE}, equalized=True),
    Candidate("qat-int8", "tflite.int8", equalized=True, trained=True),
    Candidate("weights", "tflite.weights"),
    Candidate("int16", "tflite.int16"),
]


@dataclass
class Tried:
    """A candidate and what was found of it.

    Attributes:
        file: None where it was not made.
        facts: the file's manifest.
        validation: what the file loses on the validation photos; None where it was not made.
        p50_ms: None where it was turned down before.
        turned_down: why; None of the chosen one.
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
    pixels: Pixels,
    learned: Callable[[keras.Model], keras.Model] | None = None,
) -> tuple[list[Tried], dict[Path, Latency], Verdict]:
    """Make candidates from the cheapest up until one holds the budget; time those that do.

    Args:
        write: writes the file of a candidate; returns it with its manifest.
        train: the photos to calibrate on.
        validation_probs: of the model, on the validation photos.
        learned: has a model learn to be rounded; None leaves out what has to.

    Returns:
        Every candidate of the ladder; the latencies of the files that were timed; the verdict.

    Raises:
        UserError: not even a float32 file can be made.
    """
    plain = Conversion(model, calibration_photos(train, image_size_of(model), pixels))
    equalized: Conversion | None = None
    tried = [Tried(candidate) for candidate in LADDER if learned or not candidate.trained]
    for each in tried:
        candidate, source = each.candidate, plain
        each.turned_down = _needless(each, tried)
        if each.turned_down:
            continue
        log.info("budget: making %s", candidate.name)
        try:
            if candidate.equalized:
                equalized = equalized or _equalized(plain)
                source = equalized
            if candidate.name == "equalize-int8" and source is plain:
                each.turned_down = "not made: equalizing the model saves nothing"
                continue
            if candidate.trained and learned:
                source = Conversion(learned(source.model), plain.photos)
            each.file, each.facts = write(source, candidate)
            probs = file_probabilities(each.file, validation, num_threads=1, pixels=pixels)
        except (UserError, ModelFileError) as error:
            if candidate.name == "float32":
                raise  # not the recipe is refused, the model is
            each.turned_down = f"cannot be made: {str(error).splitlines()[0]}"
        else:
            rounding = drop_by_rounding(probs, validation_probs, validation.labels)
            # Trained, it is another model, which may answer otherwise and be no worse for it.
            each.validation = rounding.by_count() if candidate.trained else rounding
            facts = FileFacts(file_bytes(each.file), "validation", drop=each.validation.drop)
            each.turned_down = "; ".join(shortfalls(facts, Limits.of_budget(budget))) or None
        log.info("budget: %s %s", candidate.name, each.turned_down or "holds")
    return tried, *_fastest(tried, budget)


def _equalized(plain: Conversion) -> Conversion:
    """The equalized model; `plain` itself where equalizing saves nothing or cannot be done."""
    if not spans_of(Graph.of(plain.model)):
        return plain
    model = equalize(plain.model, calibration=plain.photos)
    return plain if model is plain.model else Conversion(model, plain.photos)


def _needless(each: Tried, tried: list[Tried]) -> str | None:
    """Why a candidate need not be made."""
    held = [t for t in tried if t.file and not t.turned_down and not t.candidate.baseline]
    if held and not each.candidate.baseline:
        return f"not made: {held[0].candidate.name} holds the budget, and this one is no faster"
    return None


def _fastest(tried: list[Tried], budget: BudgetConfig) -> tuple[dict[Path, Latency], Verdict]:
    """Time the candidates that hold so far and choose; says of the others why not they."""
    held = {each.file: each for each in tried if each.file and not each.turned_down}
    latency: dict[Path, Latency] = {}
    if held:
        latency = timed(list(held), num_threads=1, num_warmup=NUM_WARMUP, num_runs=NUM_RUNS)
    files = [
        MeasuredFile(file.name, file_bytes(file), each.validation.drop, latency[file])
        for file, each in held.items()
        if each.validation
    ]
    limits = Limits.of_budget(budget)
    reasons = {file.name: "; ".join(shortfalls(file.facts, limits)) for file in files}
    if all(reasons.values()):
        verdict = Verdict(None, "no candidate holds the limits", reasons, holds_limits=False)
    else:
        verdict = choose(files, budget=budget, model="the float model")
    for file, each in held.items():
        each.p50_ms = latency[file].p50_ms
        each.turned_down = verdict.turned_down.get(file.name)
    return latency, verdict
