"""Which of some measured files to ship, and why none of the others."""

from typing import Any

import numpy as np

from configs.schema import BudgetConfig
from eval.latency import difference
from eval.statistics import expected_drop, paired_bootstrap

Row = dict[str, Any]
"""An entry of `files` in report.json."""


def loss_by_rounding(
    probs: np.ndarray, source_probs: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """What photos tell of a file that rounds the model `source_probs` are of; drops are losses.

    Returns:
        n; agreement; drop, counted, with the ends of its 95 % interval (drop_low, drop_high);
        expected_drop, which says more (`eval.statistics.expected_drop`), with its own; and the
        loss to decide by: what is expected, unless what is counted contradicts it beyond chance.
    """
    answers, own = probs.argmax(axis=1), source_probs.argmax(axis=1)
    lost = (own == labels) * 1.0 - (answers == labels)
    low, high = paired_bootstrap(lost[None])
    expected, expected_low, expected_high = expected_drop(probs, source_probs, labels)
    return {
        "n": len(labels),
        "agreement": float((answers == own).mean()),
        "drop": float(lost.mean()),
        "drop_low": low,
        "drop_high": high,
        "expected_drop": expected,
        "expected_low": expected_low,
        "expected_high": expected_high,
        "loss": max(expected, low),
    }


def loss_of(
    probs: np.ndarray, source_probs: np.ndarray, student_probs: np.ndarray, labels: np.ndarray
) -> float:
    """Top-1 that a file loses against the student, to choose files by.

    A file of another model (a pruned one) is counted; one of the student, or of a model that
    answers the same, is judged by what rounding costs it.
    """
    if (source_probs.argmax(axis=1) == student_probs.argmax(axis=1)).all():
        return float(loss_by_rounding(probs, student_probs, labels)["loss"])
    right = [(each.argmax(axis=1) == labels).mean() for each in (student_probs, probs)]
    return float(right[0] - right[1])


def choose(rows: list[Row], *, drops: dict[str, float] | None, budget: BudgetConfig) -> Row:
    """The fastest file that holds the budget.

    Of files whose speeds do not differ the smallest is chosen, and of those of one size (within
    1 %) the one that loses least.

    Args:
        drops: validation top-1 that each file loses against the student (`loss_of`), by its name;
            None where there is nothing to compare with. The validation split chooses, so that the
            test scores of the chosen file stay unbiased.

    Returns:
        `verdict` of report.json: chosen_file, reason and, by their names, why the others are
        turned_down.
    """
    if not rows or drops is None:
        reason = "there is nothing to choose from or compare with"
        return {"chosen_file": None, "reason": reason, "turned_down": {}}
    faults = {row["name"]: shortfalls(row, drops[row["name"]], budget) for row in rows}
    within = [row for row in rows if not faults[row["name"]]]
    limits = _limits(budget)
    if within:
        equals = _as_fast_as_the_fastest(within)
        smallest = min(row["file_bytes"] for row in equals)
        equals_in_size = [row for row in equals if row["file_bytes"] <= 1.01 * smallest]
        chosen = min(equals_in_size, key=lambda row: drops[row["name"]])
        superlative = "fastest" if len(equals) == 1 else f"smallest of {len(equals)} as fast"
        superlative = superlative if chosen["latency"] else "smallest"
        which = "only file" if len(within) == 1 else f"{superlative} of {len(within)} files"
        reason = f"the {which} {limits} (it {_lost(drops[chosen['name']])})"
    else:
        chosen = min(rows, key=lambda row: drops[row["name"]])
        lost = 100 * drops[chosen["name"]]
        reason = f"no file stays {limits}; this one loses the least ({lost:.1f} points)"
    return {
        "chosen_file": chosen["name"],
        "reason": reason,
        "turned_down": {
            row["name"]: "; ".join(faults[row["name"]]) or _behind(row, chosen)
            for row in rows
            if row is not chosen
        },
    }


def shortfalls(row: Row, drop: float, budget: BudgetConfig) -> list[str]:
    """Which limits of the budget a file does not hold; what was not measured holds."""
    found = []
    if drop > budget.max_drop:
        found.append(
            f"it loses {100 * drop:.2f} points on the validation photos, "
            f"{100 * budget.max_drop:.2f} allowed"
        )
    p50_ms = _speed(row)[0] if row["latency"] else 0.0
    if budget.max_latency_ms is not None and p50_ms > budget.max_latency_ms:
        found.append(f"it takes {p50_ms:.2f} ms, {budget.max_latency_ms:g} allowed")
    if budget.max_bytes is not None and row["file_bytes"] > budget.max_bytes:
        found.append(f"it has {row['file_bytes']:,} bytes, {budget.max_bytes:,} allowed")
    return found


def _as_fast_as_the_fastest(rows: list[Row]) -> list[Row]:
    """The row of the lowest p50, and those that are no slower as far as can be told."""
    timed = [row for row in rows if row["latency"]]
    if not timed:
        return rows
    fastest = min(timed, key=_speed)
    return [row for row in timed if row is fastest or _is_no_slower(row, fastest)]


def _is_no_slower(row: Row, other: Row) -> bool:
    told = difference(row["latency"][0], other["latency"][0])
    return told is not None and told["verdict"] != "slower"


def _behind(row: Row, chosen: Row) -> str:
    """Why a file within the limits was not chosen."""
    if row["latency"] and chosen["latency"] and not _is_no_slower(row, chosen):
        return f"it takes {_speed(row)[0]:.2f} ms, the chosen one {_speed(chosen)[0]:.2f}"
    if row["file_bytes"] > 1.01 * chosen["file_bytes"]:
        return f"it has {row['file_bytes']:,} bytes, the chosen one {chosen['file_bytes']:,}"
    return "it loses more than the chosen one"


def _limits(budget: BudgetConfig) -> str:
    limits = [f"within {100 * budget.max_drop:.1f} points of the student on the validation photos"]
    if budget.max_latency_ms is not None:
        limits.append(f"{budget.max_latency_ms:g} ms")
    if budget.max_bytes is not None:
        limits.append(f"{budget.max_bytes:,} bytes")
    return " and ".join(limits)


def _speed(row: Row) -> tuple[float, int]:
    p50_ms = row["latency"][0]["p50_ms"] if row["latency"] else float("inf")
    return p50_ms, row["file_bytes"]


def _lost(drop: float) -> str:
    points = 100 * drop
    if abs(points) < 0.05:
        return "loses nothing there"
    return f"{'loses' if points > 0 else 'gains'} {abs(points):.1f}"
