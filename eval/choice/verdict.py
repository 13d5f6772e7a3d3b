"""Which of some measured files to ship, and why none of the others."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema import BudgetConfig
from eval.choice.drop import expected_drop
from eval.scoring.intervals import paired_interval
from eval.timing.differences import difference

SAME_MODEL = 1e-3
"""Models whose probabilities are nowhere further apart are one, written in another way."""

Row = dict[str, Any]
"""An entry of `files` in report.json, before its latencies become JSON."""


@dataclass(frozen=True)
class Loss:
    """Top-1 that a file loses on the validation photos against the model that it stands for.

    Attributes:
        decisive: what files are chosen by.
        counted: right answers that are missing.
        is_expected: whether the first is an estimate (`eval.choice.drop.expected_drop`).
    """

    decisive: float
    counted: float
    is_expected: bool = False

    @classmethod
    def by_rounding(cls, found: dict[str, Any]) -> "Loss":
        """Of what `loss_by_rounding` tells."""
        return cls(found["loss"], found["drop"], found["loss"] == found["expected_drop"])

    def __str__(self) -> str:
        points, counted = 100 * self.decisive, 100 * self.counted
        if self.is_expected:
            return f"is expected to lose {points:.2f} points, counted {counted:.2f}"
        if self.decisive != self.counted:
            return f"loses at least {points:.2f} points, counted {counted:.2f}"
        return f"{'gains' if counted < 0 else 'loses'} {abs(counted):.2f} points"


def loss_by_rounding(
    probs: np.ndarray, source_probs: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """What photos tell of a file that rounds the model `source_probs` are of; drops are losses.

    Returns:
        n; agreement; drop, counted, with the ends of its 95 % interval (drop_low, drop_high);
        expected_drop, which says more, with its own (`eval.choice.drop.expected_drop`);
        and the loss to decide by: what is expected, unless the count contradicts it beyond chance.
    """
    answers, own = probs.argmax(axis=1), source_probs.argmax(axis=1)
    right, kept = own == labels, answers == labels
    lost, won = int((right & ~kept).sum()), int((kept & ~right).sum())
    low, high = paired_interval(only_first=lost, only_second=won, n=len(labels))
    expected, expected_low, expected_high = expected_drop(probs, source_probs, labels)
    return {
        "n": len(labels),
        "agreement": float((answers == own).mean()),
        "drop": (lost - won) / len(labels),
        "drop_low": low,
        "drop_high": high,
        "expected_drop": expected,
        "expected_low": expected_low,
        "expected_high": expected_high,
        "loss": max(expected, low),
    }


def loss_of(
    probs: np.ndarray, source_probs: np.ndarray, student_probs: np.ndarray, labels: np.ndarray
) -> Loss:
    """What a file loses against the student.

    A file of another model (a pruned one) is counted; one of the student, or of a model that
    computes the same, is judged by what rounding costs it.
    """
    if np.abs(source_probs - student_probs).max() <= SAME_MODEL:
        return Loss.by_rounding(loss_by_rounding(probs, student_probs, labels))
    right = [(each.argmax(axis=1) == labels).mean() for each in (student_probs, probs)]
    drop = float(right[0] - right[1])
    return Loss(drop, drop)


def choose(
    rows: list[Row], *, losses: dict[str, Loss], budget: BudgetConfig, model: str = "the student"
) -> Row:
    """The fastest file that holds the budget.

    Of files whose speeds do not differ the smallest is chosen, and of those of one size (within
    1 %) the one that loses least.

    Args:
        losses: what each file loses against `model`, by its name. The validation split chooses,
            so that the test scores of the chosen file stay unbiased.
        model: that the files stand for, as the reason calls it.

    Returns:
        `verdict` of report.json: chosen_file, reason and, by their names, why the others are
        turned_down.
    """
    if not rows:
        reason = "there is nothing to choose from"
        return {"chosen_file": None, "reason": reason, "turned_down": {}}
    faults = {row["name"]: shortfalls(row, losses[row["name"]], budget) for row in rows}
    within = [row for row in rows if not faults[row["name"]]]
    if within:
        chosen, reason = _best(within, losses, budget, model)
    else:
        chosen, merit = _nearest(rows, losses, budget)
        reason = f"no file stays {_limits(budget, model)}; {merit}"
    return {
        "chosen_file": chosen["name"],
        "reason": reason,
        "turned_down": {
            row["name"]: "; ".join(faults[row["name"]]) or _behind(row, within)
            for row in rows
            if row is not chosen
        },
    }


def shortfalls(row: Row, loss: Loss, budget: BudgetConfig) -> list[str]:
    """Which limits of the budget a file does not hold; what was not measured holds."""
    found = []
    if loss.decisive > budget.max_drop:
        allowed = f"{100 * budget.max_drop:.2f} allowed"
        found.append(f"on the validation photos it {loss}, {allowed}")
    p50_ms = _speed(row)[0] if row["latency"] else 0.0
    if budget.max_latency_ms is not None and p50_ms > budget.max_latency_ms:
        found.append(f"it takes {p50_ms:.2f} ms, {budget.max_latency_ms:g} allowed")
    if budget.max_bytes is not None and row["file_bytes"] > budget.max_bytes:
        found.append(f"it has {row['file_bytes']:,} bytes, {budget.max_bytes:,} allowed")
    return found


def _best(
    within: list[Row], losses: dict[str, Loss], budget: BudgetConfig, model: str
) -> tuple[Row, str]:
    """The file to choose of those that hold the budget, and why it."""
    equals = _as_fast_as_the_fastest(within)
    chosen = min(_as_small_as_the_smallest(equals), key=lambda row: losses[row["name"]].decisive)
    superlative = "fastest" if len(equals) == 1 else f"smallest of {len(equals)} as fast"
    superlative = superlative if chosen["latency"] else "smallest"
    which = "only file" if len(within) == 1 else f"{superlative} of {len(within)} files"
    reason = f"the {which} {_limits(budget, model, chosen)} (it {losses[chosen['name']]})"
    if budget.max_latency_ms is not None and not chosen["latency"]:
        reason += "; its latency was not measured"
    return chosen, reason


def _nearest(rows: list[Row], losses: dict[str, Loss], budget: BudgetConfig) -> tuple[Row, str]:
    """The file to name where none holds the budget, and what speaks for it."""
    harmless = [row for row in rows if losses[row["name"]].decisive <= budget.max_drop]
    if not harmless:
        chosen = min(rows, key=lambda row: losses[row["name"]].decisive)
        return chosen, f"this one loses the least (it {losses[chosen['name']]})"
    small = [r for r in harmless if budget.max_bytes is None or r["file_bytes"] <= budget.max_bytes]
    if small:
        chosen, superlative = min(small, key=_speed), "fastest"
        measured = f"{_speed(chosen)[0]:.2f} ms"
    else:
        chosen, superlative = min(harmless, key=lambda row: row["file_bytes"]), "smallest"
        measured = f"{chosen['file_bytes']:,} bytes"
    return chosen, f"of those that lose no more this one is the {superlative} ({measured})"


def _as_fast_as_the_fastest(rows: list[Row]) -> list[Row]:
    """The row of the lowest p50, and those that are no slower as far as can be told."""
    timed = [row for row in rows if row["latency"]]
    if not timed:
        return rows
    fastest = min(timed, key=_speed)
    return [row for row in timed if row is fastest or _is_no_slower(row, fastest)]


def _is_no_slower(row: Row, other: Row) -> bool:
    told = difference(row["latency"][0], other["latency"][0])
    return told is not None and told.verdict != "slower"


def _as_small_as_the_smallest(rows: list[Row]) -> list[Row]:
    smallest = min(row["file_bytes"] for row in rows)
    return [row for row in rows if row["file_bytes"] <= 1.01 * smallest]


def _behind(row: Row, within: list[Row]) -> str:
    """Why a file that holds the budget was not chosen of those that do."""
    equals = _as_fast_as_the_fastest(within)
    if row not in equals:
        if not row["latency"]:
            return "it was not timed"
        p50_ms = [_speed(each)[0] for each in (row, min(equals, key=_speed))]
        return f"it takes {p50_ms[0]:.2f} ms, the fastest {p50_ms[1]:.2f}"
    if row not in _as_small_as_the_smallest(equals):
        smallest = min(each["file_bytes"] for each in equals)
        return f"it has {row['file_bytes']:,} bytes, the smallest {smallest:,}"
    return "it loses no less than the chosen one"


def _limits(budget: BudgetConfig, model: str, chosen: Row | None = None) -> str:
    """The limits that were looked at, all of them or those that could be of a chosen file."""
    limits = [f"within {100 * budget.max_drop:.1f} points of {model} on the validation photos"]
    if budget.max_latency_ms is not None and (chosen is None or chosen["latency"]):
        limits.append(f"{budget.max_latency_ms:g} ms")
    if budget.max_bytes is not None:
        limits.append(f"{budget.max_bytes:,} bytes")
    return " and ".join(limits)


def _speed(row: Row) -> tuple[float, int]:
    p50_ms = row["latency"][0].p50_ms if row["latency"] else float("inf")
    return p50_ms, row["file_bytes"]
