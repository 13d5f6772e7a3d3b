"""What each step of compression cost and gained: student -> method -> recipe."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from eval.scoring.accuracy import Comparison, compare
from eval.scoring.file_rows import FileRow


@dataclass(frozen=True)
class StepCost:
    """One entry of `steps` in report.json: what a method or a recipe cost.

    Attributes:
        drop: of top-1, with the ends of its 95 % interval; None without a comparison.
        before_file, after_file: the float32 files whose bytes and p50 are compared. None where
            there is no such file or time.
        on_the_way: whether the step leads to the chosen file.
    """

    kind: Literal["method", "recipe"]
    before: Annotated[str | None, Field(alias="from")]
    after: Annotated[str, Field(alias="to")]
    drop: float | None
    drop_low: float | None
    drop_high: float | None
    before_file: str | None
    bytes_before: int | None
    ms_before: float | None
    after_file: str | None
    bytes_after: int | None
    ms_after: float | None
    on_the_way: bool


def step_costs(
    *,
    models: list[str],
    files: list[FileRow],
    chosen: str | None,
    probs: dict[str, np.ndarray],
    labels: np.ndarray,
) -> list[StepCost]:
    """Methods in their order, then the files.

    Top-1 is compared photo by photo with what the step started from. A Keras model has neither
    bytes nor milliseconds, so its float32 file in the same format stands for it.

    Args:
        models: the student, and what each method made of the one before.
    """
    by_name = {row.name: row for row in files}
    chosen_row = by_name.get(chosen or "")
    form = chosen_row.format if chosen_row else files[0].format if files else None
    way = models[: models.index(str(chosen_row.parent)) + 1] if chosen_row else []

    def float_file(parent: str | None, form: str | None) -> FileRow | None:
        recipe = f"{form}.float32"
        return next((r for r in files if r.parent == parent and r.recipe == recipe), None)

    of_methods = [
        _step_cost(
            "method",
            before,
            after,
            compare(probs[after], probs[before], labels),
            files=(float_file(before, form), float_file(after, form)),
            on_the_way=after in way,
        )
        for before, after in pairwise(models)
    ]
    of_recipes = []
    for row in files:
        before_file = float_file(row.parent, row.format)
        of_recipes.append(
            _step_cost(
                "recipe",
                row.parent,
                row.name,
                row.comparison,
                files=(before_file if before_file is not row else None, row),
                on_the_way=row.name == chosen,
            )
        )
    return of_methods + of_recipes


def _step_cost(
    kind: Literal["method", "recipe"],
    before: str | None,
    after: str,
    scores: Comparison | None,
    *,
    files: tuple[FileRow | None, FileRow | None],
    on_the_way: bool,
) -> StepCost:
    before_file, after_file = files
    return StepCost(
        kind=kind,
        before=before,
        after=after,
        drop=scores.drop if scores else None,
        drop_low=scores.drop_low if scores else None,
        drop_high=scores.drop_high if scores else None,
        before_file=before_file.name if before_file else None,
        bytes_before=before_file.file_bytes if before_file else None,
        ms_before=_p50_ms(before_file),
        after_file=after_file.name if after_file else None,
        bytes_after=after_file.file_bytes if after_file else None,
        ms_after=_p50_ms(after_file),
        on_the_way=on_the_way,
    )


def _p50_ms(row: FileRow | None) -> float | None:
    return row.latency[0].p50_ms if row and row.latency else None
