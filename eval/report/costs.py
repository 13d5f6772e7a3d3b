"""What each step of compression cost and gained: student -> method -> recipe."""

from itertools import pairwise
from typing import Any

import numpy as np

from eval.scoring.accuracy import compare


def step_costs(
    *,
    models: list[str],
    files: list[dict[str, Any]],
    chosen: str | None,
    probs: dict[str, np.ndarray],
    labels: np.ndarray,
) -> list[dict[str, Any]]:
    """`steps` of report.json: methods in their order, then the files.

    Top-1 is compared photo by photo with what the step started from; bytes and milliseconds,
    which a Keras model has none of, with the float32 file of that in the same format.

    Args:
        models: the student, and what each method made of the one before.
        files: rows of report.json.

    Returns:
        kind (method or recipe), from, to; drop with its 95 % interval drop_low, drop_high; the
        names before_file and after_file, and their bytes_before, bytes_after, ms_before and
        ms_after (None where there is no such file or time); on_the_way to the chosen file.
    """
    by_name = {row["name"]: row for row in files}
    chosen_row = by_name.get(chosen or "")
    form = chosen_row["format"] if chosen_row else files[0]["format"] if files else None
    way = models[: models.index(chosen_row["source"]) + 1] if chosen_row else []

    def float_file(source: str, form: str | None) -> dict[str, Any] | None:
        some = [r for r in files if r["source"] == source and r["recipe"] == f"{form}.float32"]
        return some[0] if some else None

    steps = []
    for before, after in pairwise(models):
        scores = compare(probs[after], probs[before], labels)
        steps.append(
            {
                "kind": "method",
                "from": before,
                "to": after,
                "drop": scores["drop_vs_source"],
                **_interval(scores),
                **_sizes(float_file(before, form), float_file(after, form)),
                "on_the_way": after in way,
            }
        )
    for row in files:
        scores, before_file = row["accuracy"], float_file(row["source"], row["format"])
        steps.append(
            {
                "kind": "recipe",
                "from": row["source"],
                "to": row["name"],
                "drop": scores["drop_vs_source"],
                **_interval(scores),
                **_sizes(before_file if before_file is not row else None, row),
                "on_the_way": row["name"] == chosen,
            }
        )
    return steps


def _interval(scores: dict[str, Any]) -> dict[str, Any]:
    return {key: scores[key] for key in ("drop_low", "drop_high")}


def _sizes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for when, row in (("before", before), ("after", after)):
        latency = row["latency"][0] if row and row["latency"] else None
        found |= {
            f"{when}_file": row["name"] if row else None,
            f"bytes_{when}": row["file_bytes"] if row else None,
            f"ms_{when}": latency.p50_ms if latency else None,
        }
    return found
