"""What each step of compression cost and gained: student -> method -> recipe."""

from itertools import pairwise
from typing import Any

import numpy as np

from eval.scoring.accuracy import Comparison, compare
from eval.scoring.file_rows import FileRow


def step_costs(
    *,
    models: list[str],
    files: list[FileRow],
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
    by_name = {row.name: row for row in files}
    chosen_row = by_name.get(chosen or "")
    form = chosen_row.format if chosen_row else files[0].format if files else None
    way = models[: models.index(str(chosen_row.parent)) + 1] if chosen_row else []

    def float_file(parent: str | None, form: str | None) -> FileRow | None:
        recipe = f"{form}.float32"
        return next((r for r in files if r.parent == parent and r.recipe == recipe), None)

    steps = []
    for before, after in pairwise(models):
        scores = compare(probs[after], probs[before], labels)
        steps.append(
            {
                "kind": "method",
                "from": before,
                "to": after,
                **_drop(scores),
                **_sizes(float_file(before, form), float_file(after, form)),
                "on_the_way": after in way,
            }
        )
    for row in files:
        before_file = float_file(row.parent, row.format)
        steps.append(
            {
                "kind": "recipe",
                "from": row.parent,
                "to": row.name,
                **_drop(row.comparison),
                **_sizes(before_file if before_file is not row else None, row),
                "on_the_way": row.name == chosen,
            }
        )
    return steps


def _drop(scores: Comparison | None) -> dict[str, float | None]:
    return {
        "drop": scores.drop if scores else None,
        "drop_low": scores.drop_low if scores else None,
        "drop_high": scores.drop_high if scores else None,
    }


def _sizes(before: FileRow | None, after: FileRow | None) -> dict[str, str | float | None]:
    sizes: dict[str, str | float | None] = {}
    for when, row in (("before", before), ("after", after)):
        sizes |= {
            f"{when}_file": row.name if row else None,
            f"bytes_{when}": row.file_bytes if row else None,
            f"ms_{when}": row.latency[0].p50_ms if row and row.latency else None,
        }
    return sizes
