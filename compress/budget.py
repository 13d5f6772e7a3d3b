"""The search for the fastest TFLite file of a model within a budget, from the cheapest up."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from compress.export import RECIPES, calibration_of
from compress.graph import Graph, image_size_of
from compress.methods.equalize import equalize, rewritable
from configs.schema import BudgetConfig, Choice
from distill.data import Examples
from eval.accuracy import Pixels, compare
from eval.choice import choose
from eval.footprint import file_bytes
from eval.results import Photos, file_probabilities, timed
from eval.statistics import expected_drop, paired_bootstrap

log = logging.getLogger("potstill")

MIXED_SHARE = 0.5
"""Of what rounding is predicted to cost, what a mixed file saves by operations in float."""
NUM_WARMUP = 10
NUM_RUNS = 200


@dataclass(frozen=True)
class Candidate:
    """One rung of the ladder: how a file is made.

    Attributes:
        name: what its file is called by, behind the name of the model.
        equalized: made of the equalized model, where the model has swishes to equalize.
        falls_back: slower than the rungs before it wherever int8 is fast: left out once one of them
            holds the budget.
    """

    name: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    equalized: bool = False
    falls_back: bool = True

    @property
    def choice(self) -> Choice:
        """The recipe with all its options."""
        return Choice(name=self.recipe, options=RECIPES.check(self.recipe, self.options))


LADDER = [
    # What any other file has to beat.
    Candidate("float32", "tflite.float32", falls_back=False),
    Candidate("dynamic", "tflite.dynamic", falls_back=False),
    Candidate("int8", "tflite.int8", falls_back=False),
    Candidate("equalize-int8", "tflite.int8", equalized=True),
    Candidate("mixed-int8", "tflite.int8", {"keep_float": MIXED_SHARE}, equalized=True),
    Candidate("weights", "tflite.weights"),
    Candidate("int16", "tflite.int16"),
]


@dataclass
class Tried:
    """A candidate and what was found of it; what was not made or measured is None."""

    candidate: Candidate
    file: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] | None = None
    p50_ms: float | None = None
    turned_down: str | None = None

    def describe(self) -> dict[str, Any]:
        """For the verdict of a search."""
        return {
            "name": self.file.name if self.file else self.candidate.name,
            "recipe": self.candidate.recipe,
            "file_bytes": file_bytes(self.file) if self.file else None,
            "validation": self.validation,
            "p50_ms": self.p50_ms,
            "turned_down": self.turned_down,
        }


def search(
    model: keras.Model,
    *,
    budget: BudgetConfig,
    write: Callable[[keras.Model, Candidate], tuple[Path, dict[str, Any]]],
    train: Examples,
    validation: Photos,
    validation_probs: np.ndarray,
    pixels: Pixels,
) -> tuple[list[Tried], dict[Path, dict[str, Any]], dict[str, Any]]:
    """Make candidates from the cheapest up until one holds the budget; time those that do.

    Args:
        write: makes the file of a candidate from a model; returns it with its manifest.
        train: the photos to calibrate on.
        validation_probs: of the model, on the validation photos.

    Returns:
        Every candidate of the ladder; latency rows of the files that were timed; the verdict.
    """
    calibration = calibration_of(train, image_size_of(model), pixels)
    has_swishes = bool(rewritable(Graph.of(model)))
    equalized: keras.Model | None = None
    tried = [Tried(candidate) for candidate in LADDER]
    for each in tried:
        candidate, source = each.candidate, model
        each.turned_down = _needless(each, tried, has_swishes)
        if each.turned_down:
            continue
        if candidate.equalized and has_swishes:
            equalized = equalized or equalize(model, calibration=calibration)
            source = equalized
        log.info("budget: making %s", candidate.name)
        each.file, each.facts = write(source, candidate)
        probs = file_probabilities(each.file, validation, num_threads=1, pixels=pixels)
        each.validation = against_source(probs, validation_probs, validation.labels)
        each.turned_down = shortfall(each.validation, file_bytes(each.file), budget)
        log.info("budget: %s %s", each.file.name, each.turned_down or "holds")
    return tried, *_fastest(tried, budget)


def _needless(each: Tried, tried: list[Tried], has_swishes: bool) -> str | None:
    """Why a candidate need not be made."""
    candidate = each.candidate
    if candidate.name == "equalize-int8" and not has_swishes:
        return "not made: no swish of the model can be equalized"
    held = [
        t for t in tried if t.file and not t.turned_down and t.candidate.recipe == "tflite.int8"
    ]
    if candidate.falls_back and held:
        return f"not made: {held[0].candidate.name} holds the budget, and this one is slower"
    return None


def against_source(
    probs: np.ndarray, source_probs: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """What the validation photos tell of a file, as JSON values; drops are positive losses.

    Returns:
        n; agreement; drop, counted, with the ends of its 95 % interval (drop_low, drop_high); and
        expected_drop, which says more (`eval.statistics.expected_drop`), with its own.
    """
    lost = (source_probs.argmax(axis=1) == labels) * 1.0 - (probs.argmax(axis=1) == labels)
    low, high = paired_bootstrap(lost[None])
    expected, expected_low, expected_high = expected_drop(probs, source_probs, labels)
    return {
        "n": len(labels),
        "agreement": compare(probs, source_probs, labels)["agreement_with_source"],
        "drop": float(lost.mean()),
        "drop_low": low,
        "drop_high": high,
        "expected_drop": expected,
        "expected_low": expected_low,
        "expected_high": expected_high,
    }


def shortfall(validation: dict[str, Any], num_bytes: int, budget: BudgetConfig) -> str | None:
    """Why a file is turned down before it is timed.

    The expected drop decides, unless what was counted contradicts it beyond chance.
    """
    allowed = f"{100 * budget.max_drop:.1f} allowed"
    if budget.max_bytes is not None and num_bytes > budget.max_bytes:
        return f"has {num_bytes:,} bytes, {budget.max_bytes:,} allowed"
    if validation["expected_drop"] > budget.max_drop:
        low, high = 100 * validation["expected_low"], 100 * validation["expected_high"]
        return (
            f"loses {100 * validation['expected_drop']:.1f} points ({low:.1f} to {high:.1f}), "
            f"{allowed}"
        )
    if validation["drop_low"] > budget.max_drop:
        return f"loses {100 * validation['drop']:.1f} points as counted, {allowed}"
    return None


def _fastest(
    tried: list[Tried], budget: BudgetConfig
) -> tuple[dict[Path, dict[str, Any]], dict[str, Any]]:
    """Time the candidates that hold so far and choose; says of the others why not they."""
    held = [each for each in tried if each.file and not each.turned_down]
    files = [each.file for each in held if each.file]
    latency = timed(files, num_threads=1, num_warmup=NUM_WARMUP, num_runs=NUM_RUNS) if files else {}
    rows, drops = [], {}
    for each in held:
        assert each.file is not None
        assert each.validation is not None
        each.p50_ms = latency[each.file]["p50_ms"]
        name = each.file.name
        drops[name] = each.validation["expected_drop"]
        rows.append(
            {"name": name, "file_bytes": file_bytes(each.file), "latency": [latency[each.file]]}
        )
    verdict = choose(rows, drops=drops, budget=budget)
    if not held:
        verdict["reason"] = "no candidate holds the budget"
    for each in held:
        assert each.file is not None
        each.turned_down = verdict["turned_down"].get(each.file.name)
    return latency, verdict
