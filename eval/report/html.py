"""The report for people: one self-contained HTML page, and Markdown for pull requests."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from PIL import Image

from configs.records import from_json
from eval.images import evaluation_image
from eval.photo_files import UnreadablePhoto
from eval.report.charts import Point, lines, pareto_front, scatter
from eval.report.failures import ConfusionTable, Gallery
from eval.report.wording import FILTERS, dash, is_number, ratio
from eval.timing.differences import difference
from eval.timing.latency import Latency

TEMPLATES = Path(__file__).with_name("templates")
THUMBNAIL = (160, 160)
TRAINED = ("teacher", "student", "control")

ReportJson = dict[str, Any]
"""The content of report.json, or a part of it. A value may be missing, as in older versions."""

Times = dict[str, ReportJson | None]
"""The latency of each file on one device, by the name of the file."""

Epoch = dict[str, float]
"""One row of a history.csv, by its columns."""


@dataclass(frozen=True)
class Details:
    """What the page shows beside report.json.

    Attributes:
        histories: the epochs of each model that was trained.
        confusion: of the chosen file; None without one.
        galleries: photos on which it fails, or differs from its parent or the teacher.
    """

    histories: dict[str, list[Epoch]]
    confusion: ConfusionTable | None
    galleries: list[Gallery]


def render_html(report: ReportJson, details: Details) -> str:
    """The whole page; nothing in it is fetched from anywhere."""
    template = page_environment(autoescape=True).get_template("report.html")
    galleries = [
        (gallery, [(row, _thumbnail(row.photo)) for row in gallery.shown])
        for gallery in details.galleries
    ]
    return template.render(**_context(report, details), galleries=galleries)


def render_markdown(report: ReportJson, details: Details) -> str:
    """A summary for a pull request."""
    template = markdown_environment().get_template("report.md")
    return template.render(**_context(report, details))


def markdown_environment() -> Environment:
    """Renders Markdown templates; a missing value shows as a dash."""
    return page_environment(autoescape=False)


def page_environment(*, autoescape: bool) -> Environment:
    """Renders the templates of this folder; a missing value shows as a dash."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        # A report of an older version may lack values, at any depth.
        undefined=ChainableUndefined,
        finalize=dash,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    return environment


def _context(report: ReportJson, details: Details) -> dict[str, Any]:
    files = report.get("files") or []
    device = next((row["latency"][0]["device"] for row in files if row.get("latency")), None)
    times = {row["name"]: _time_on(row, device) for row in files}
    chosen_name = (report.get("verdict") or {}).get("chosen_file")
    chosen = next((row for row in files if row["name"] == chosen_name), None)
    by_time = _points(files, {n: (t or {}).get("p50_ms") for n, t in times.items()}, chosen_name)
    sizes = {row["name"]: row.get("file_bytes") for row in files}
    by_size = _points(files, {n: size and size / 1e6 for n, size in sizes.items()}, chosen_name)
    return {
        "report": report,
        "details": details,
        "chosen": chosen,
        "times": times,
        "timing": next(filter(None, times.values()), None),
        "elsewhere": [
            (number, row["name"], time)
            for number, row in enumerate(files, 1)
            for time in row.get("latency") or []
            if time is not times[row["name"]]
        ],
        "shipped": _shipped(report),
        "strategies": _strategies(report),
        "against_float": _against_float(chosen, files, times, _shipped(report)) if chosen else None,
        "power": _power_text(chosen["accuracy"]) if chosen else None,
        "legend": sorted(by_time or by_size, key=lambda point: point.x),
        "charts": _charts(by_time, by_size, times),
        "front": {point.number for points in (by_time, by_size) for point in pareto_front(points)},
        "curves": _curves(details.histories),
        "trained": [name for name in TRAINED if details.histories.get(name)],
        "distillation": (report.get("distillation") or {}).get("sentence"),
        "confusion": details.confusion,
        "flips": (chosen or {}).get("flips_by_class") or [],
        "endurance": _endurance(report.get("robustness"), chosen_name),
        "label_curve": _label_curve(report.get("label_curve")),
        "reliability": _reliability(report.get("calibration")),
    }


def _time_on(row: ReportJson, device: str | None) -> ReportJson | None:
    """The latency of a file on one device; only latencies of one device can be compared."""
    return next((time for time in row.get("latency") or [] if time["device"] == device), None)


def _strategies(report: ReportJson) -> str:
    """Which layers of each model learned when, as far as the report says it."""
    models = [model for model in report.get("models") or [] if model.get("strategy")]
    return "; ".join(f"{model['name']} by {model['strategy']}" for model in models)


def _power_text(scores: ReportJson) -> str | None:
    """Whether the test photos could have shown a drop of half a point."""
    power, drop = scores.get("half_point_power"), scores.get("detectable_drop")
    if power is None or drop is None:
        return None
    return (
        f"With {scores['n']} test photos, a loss of 0.5 points would be detected "
        f"{100 * power:.0f} % of the time. The smallest loss detected 80 % of the time is "
        f"{100 * drop:.1f} points."
    )


def _shipped(report: ReportJson) -> str:
    """The model that became files; in reports of older versions always the student."""
    return str((report.get("shipped") or {}).get("model") or "student")


def _against_float(
    chosen: ReportJson, files: list[ReportJson], times: Times, model: str
) -> str | None:
    """Size and speed beside the model's float32 file, of the same format if there is one."""
    floats = [
        row
        for row in files
        if row.get("source") == model and str(row.get("recipe")).endswith("float32")
    ]
    if not floats or chosen in floats:
        return None
    other = min(floats, key=lambda row: row.get("format") != chosen.get("format"))
    comparison = [ratio(other["file_bytes"] / chosen["file_bytes"], "smaller", "larger")]
    ours, theirs = times[chosen["name"]], times[other["name"]]
    if ours and theirs and ours.get("num_threads") == theirs.get("num_threads"):
        speed = difference(from_json(Latency, ours), from_json(Latency, theirs))
        alike = speed is not None and speed.verdict == "no difference"
        faster = ratio(theirs["p50_ms"] / ours["p50_ms"], "faster", "slower")
        comparison.append("no faster or slower" if alike else faster)
    return f"{' and '.join(comparison)} than {other['name']}"


def _points(
    files: list[ReportJson], costs: dict[str, float | None], chosen: str | None
) -> list[Point]:
    """The files with a known accuracy and cost; `costs` by name."""
    points = []
    for number, row in enumerate(files, 1):
        x, scores = costs[row["name"]], row.get("accuracy") or {}
        y, low, high = map(scores.get, ("top1", "top1_low", "top1_high"))
        if is_number(x) and is_number(y) and is_number(low) and is_number(high):
            points.append(Point(number, row["name"], x, y, low, high, row["name"] == chosen))
    return points


def _charts(by_time: list[Point], by_size: list[Point], times: Times) -> list[str]:
    """Accuracy against latency and against size, for the files that have both."""
    charts = []
    if by_time:
        time = times[by_time[0].name] or {}
        threads = f"{time['num_threads']} thread" + ("s" if time["num_threads"] > 1 else "")
        title = f"median latency in ms ({time['device']}, {threads})"
        charts.append(scatter(by_time, x_title=title, y_title="top-1 and its 95 % interval"))
    if by_size:
        title = "size in MB"
        charts.append(scatter(by_size, x_title=title, y_title="top-1 and its 95 % interval"))
    return charts


def _curves(histories: dict[str, list[Epoch]]) -> list[tuple[str, str]]:
    """(title, SVG) of validation top-1 and loss over the epochs."""
    charts = []
    for key, title, percent in (
        ("val_accuracy", "validation top-1", True),
        ("val_loss", "validation loss", False),
    ):
        series = {
            name: [
                (row.get("epoch", number), row[key])
                for number, row in enumerate(histories.get(name) or [], 1)
                if is_number(row.get(key))
            ]
            for name in TRAINED
        }
        series = {name: points for name, points in series.items() if points}
        if series:
            charts.append((title, lines(series, x_title="epoch", y_title=title, percent=percent)))
    return charts


def _endurance(robustness: ReportJson | None, chosen: str | None) -> str:
    """Top-1 over the strengths, the mean of all corruptions; strength 0 are the clean photos."""
    if not robustness:
        return ""
    rows = {row["name"]: row for row in robustness["rows"]}
    series: dict[str, list[tuple[float, float]]] = {}
    for kind, name in (("teacher", "teacher"), ("student", "student"), ("file", chosen)):
        if name in rows:
            by_strength = zip(*rows[name]["top1"].values(), strict=True)
            means = [sum(shares) / len(shares) for shares in by_strength]
            series[kind] = list(enumerate([rows[name]["clean_top1"], *means]))
    return lines(series, x_title="strength of the corruption", y_title="top-1", percent=True)


def _label_curve(curve: ReportJson | None) -> str:
    """Top-1 of the controls by their number of labels, and the level of the student."""
    if not curve:
        return ""
    numbers, level = curve["num_labels"], curve["student_top1"]
    return lines(
        {
            "student": [(numbers[0], level), (numbers[-1], level)],
            "control": list(zip(numbers, curve["control_top1"], strict=True)),
        },
        x_title="labels of the control",
        y_title="top-1",
        percent=True,
    )


def _reliability(calibration: ReportJson | None) -> str:
    """Share of right answers by confidence, before and after the temperature."""
    if not calibration:
        return ""
    series = {
        name: [(100 * row["confidence"], row["accuracy"]) for row in calibration[name]]
        for name in ("before", "after")
    }
    ends = [point for points in series.values() for point in points]
    low = min(min(x / 100, y) for x, y in ends)
    return lines(
        {"ideal": [(100 * low, low), (100.0, 1.0)], **series},
        x_title="confidence, %",
        y_title="right answers",
        percent=True,
    )


def _thumbnail(photo: Path) -> str | None:
    """The photo as a data URI, or None where it is gone or unreadable."""
    try:
        pixels = evaluation_image(photo, THUMBNAIL)
    except (UnreadablePhoto, OSError):
        return None
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
