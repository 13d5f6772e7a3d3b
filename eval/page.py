"""The report for people: one self-contained HTML page, and Markdown for pull requests."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from eval.charts import Point, lines, pareto_front, scatter
from eval.images import evaluation_image

TEMPLATES = Path(__file__).with_name("templates")
THUMBNAIL = (160, 160)
MAX_CLASSES_SHOWN = 25


@dataclass(frozen=True)
class Disagreement:
    """A photo on which a file and the model it came from differ."""

    photo: Path
    label: str
    source_answer: str
    source_confidence: float
    file_answer: str
    file_confidence: float


@dataclass(frozen=True)
class Details:
    """What the page shows beside report.json.

    Attributes:
        histories: by model, a row per epoch with val_accuracy and val_loss.
        confusion: photos by (label, answer) of the chosen file.
        disagreements: photos, surest first, of `disagreeing_file` against its source.
        num_disagreements: how many there are in all.
    """

    histories: dict[str, list[dict[str, Any]]]
    confusion: list[list[int]] | None
    disagreements: list[Disagreement]
    disagreeing_file: str | None = None
    num_disagreements: int = 0


def render_html(report: dict[str, Any], details: Details) -> str:
    """The whole page; nothing in it is fetched from anywhere."""
    template = _environment(autoescape=True).get_template("report.html")
    return template.render(**_context(report, details), thumbnails=_thumbnails(details))


def render_markdown(report: dict[str, Any], details: Details) -> str:
    """A summary for a pull request."""
    environment = _environment(autoescape=False)
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment.get_template("report.md").render(**_context(report, details))


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "points": _points_text,
        "number": _number,
        "p_value": _p_value,
        "size": _size,
        "count": _count,
        "duration": _duration,
    }
    return environment


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _points_text(share: float | None) -> str:
    """A difference of shares in points, with its sign."""
    if share is None:
        return "–"
    text = f"{100 * share:+.1f}".replace("-", "−")
    return text[1:] if text[1:] == "0.0" else text


def _p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _size(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "–"
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"


def _count(value: float | None) -> str:
    if value is None:
        return "–"
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.2f}{name}"
    return f"{value:g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{minutes // 60} h {minutes % 60} min".removeprefix("0 h ")
    )


def _context(report: dict[str, Any], details: Details) -> dict[str, Any]:
    files = report["files"]
    models = {model["name"]: model for model in report["models"]}
    chosen_name = (report.get("verdict") or {}).get("chosen_file")
    points = _points(files, chosen_name)
    return {
        "report": report,
        "details": details,
        "models": models,
        "chosen": next((row for row in files if row["name"] == chosen_name), None),
        "chart": scatter(points, x_title=_latency_title(files), y_title="top-1") if points else "",
        "front": [point.name for point in pareto_front(points)],
        "curves": _curves(details.histories),
        "control": _control_sentence(models),
        "confusion": _confusion(report["data"]["classes"], details.confusion),
    }


def _points(files: list[dict[str, Any]], chosen: str | None) -> list[Point]:
    return [
        Point(
            number=number,
            name=row["name"],
            x=row["latency"][0]["p50_ms"],
            y=row["accuracy"]["top1"],
            low=row["accuracy"]["top1_low"],
            high=row["accuracy"]["top1_high"],
            chosen=row["name"] == chosen,
        )
        for number, row in enumerate(files, 1)
        if row.get("latency") and row.get("accuracy")
    ]


def _latency_title(files: list[dict[str, Any]]) -> str:
    row = next(row["latency"][0] for row in files if row.get("latency"))
    threads = f"{row['num_threads']} thread" + ("s" if row["num_threads"] > 1 else "")
    return f"median latency in ms ({row['device']}, {threads})"


def _curves(histories: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """(title, SVG) of validation top-1 and loss over the epochs."""
    charts = []
    for key, title, percent in (
        ("val_accuracy", "validation top-1", True),
        ("val_loss", "validation loss", False),
    ):
        series = {
            name: [
                (row["epoch"], row[key]) for row in rows if math.isfinite(row.get(key, math.nan))
            ]
            for name, rows in histories.items()
        }
        series = {name: points for name, points in series.items() if points}
        if series:
            charts.append((title, lines(series, x_title="epoch", y_title=title, percent=percent)))
    return charts


def _control_sentence(models: dict[str, Any]) -> str | None:
    """What the difference between student and control allows to say: one seed, so not much."""
    if "student" not in models or "control" not in models:
        return None
    student, control = models["student"]["accuracy"], models["control"]["accuracy"]
    gain = 100 * (student["top1"] - control["top1"])
    apart = student["top1_low"] > control["top1_high"] or control["top1_low"] > student["top1_high"]
    verb = "above" if gain > 0 else "below"
    said = "exactly as often right as" if gain == 0 else f"{abs(gain):.1f} points {verb}"
    rest = (
        "their intervals do not overlap"
        if apart
        else ("their intervals overlap: one run each is no evidence of a difference")
    )
    return f"The student is {said} its labels-only control; {rest}."


def _confusion(classes: list[str], counts: list[list[int]] | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    shown = sorted(range(len(classes)), key=lambda i: -sum(counts[i]))[:MAX_CLASSES_SHOWN]
    shown.sort()
    rows = []
    for i in shown:
        total = sum(counts[i]) or 1
        cells = [(counts[i][j], round(counts[i][j] / total, 3), i == j) for j in shown]
        rows.append((classes[i], cells, counts[i][i] / total))
    return {"classes": [classes[i] for i in shown], "rows": rows, "num_classes": len(classes)}


def _thumbnails(details: Details) -> list[str]:
    """The photos of the disagreements as data URIs."""
    uris = []
    for row in details.disagreements:
        jpeg = io.BytesIO()
        Image.fromarray(evaluation_image(row.photo, THUMBNAIL)).save(jpeg, "JPEG", quality=75)
        uris.append(f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}")
    return uris
