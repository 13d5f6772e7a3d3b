"""What a search found: a table of its trials, as CSV and as a page with a chart."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.report.charts import Point, scatter
from eval.report.html import page_environment
from eval.scoring.intervals import wilson_interval


@dataclass(frozen=True)
class TrialRow:
    """One finished trial.

    Attributes:
        settings: what the trial changed, by key.
        file: its best file.
        num_right: right answers on the validation photos.
        why: the limits that the file does not hold; empty if it holds all.
    """

    number: int
    settings: Mapping[str, Any]
    file: str
    num_right: int
    num_photos: int
    p50_ms: float
    file_bytes: int
    why: str
    chosen: bool

    @property
    def top1(self) -> float:
        """Top-1 on the validation photos."""
        return self.num_right / self.num_photos

    @property
    def texts(self) -> list[str]:
        """The values of the settings."""
        return [
            f"{v:.4g}" if isinstance(v, float) else json.dumps(v) for v in self.settings.values()
        ]


def trials_csv(rows: list[TrialRow]) -> str:
    """One line for each trial."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(rows[0].settings)
    writer.writerow(["trial", *keys, "file", "val_top1", "p50_ms", "bytes", "exceeds", "chosen"])
    for row in rows:
        values = [json.dumps(value) for value in row.settings.values()]
        measured = [row.file, f"{row.top1:.4f}", f"{row.p50_ms:.4f}", row.file_bytes, row.why]
        writer.writerow([row.number, *values, *measured, int(row.chosen)])
    return text.getvalue()


def trials_page(rows: list[TrialRow], *, title: str, sentence: str) -> str:
    """A self-contained page: accuracy against latency, and the table."""
    points = [
        Point(
            row.number, f"trial {row.number}", row.p50_ms, row.top1,
            *wilson_interval(row.num_right, row.num_photos), chosen=row.chosen,
        )
        for row in rows
    ]  # fmt: skip
    chart = scatter(points, x_title="p50, ms", y_title="top-1 on the validation photos")
    template = page_environment(autoescape=True).get_template("trials.html")
    return template.render(rows=rows, title=title, sentence=sentence, chart=chart)
