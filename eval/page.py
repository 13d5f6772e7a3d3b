"""The report for people: one self-contained HTML page, and Markdown for pull requests."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Undefined
from PIL import Image

from eval.charts import Point, lines, pareto_front, scatter
from eval.images import UnreadablePhoto, evaluation_image

TEMPLATES = Path(__file__).with_name("templates")
THUMBNAIL = (160, 160)
MAX_CLASSES_SHOWN = 25
MAX_PHOTOS = 12
MAX_CONFUSIONS = 5
TRAINED = ("teacher", "student", "control")


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
    photos = [(row, _thumbnail(row.photo)) for row in details.disagreements[:MAX_PHOTOS]]
    return template.render(**_context(report, details), photos=photos)


def render_markdown(report: dict[str, Any], details: Details) -> str:
    """A summary for a pull request."""
    template = markdown_environment().get_template("report.md")
    return template.render(**_context(report, details))


def markdown_environment() -> Environment:
    """What Markdown templates are rendered in; what is unknown shows as a dash."""
    environment = _environment(autoescape=False)
    environment.filters["cell"] = _cell
    return environment


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        # What a report does not say is shown as unknown, at any depth.
        undefined=ChainableUndefined,
        finalize=lambda value: "–" if value is None or isinstance(value, Undefined) else value,
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


def _known(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _cell(text: object) -> str:
    """Text that ends no cell of a Markdown table and starts no HTML."""
    if text is None or isinstance(text, Undefined):
        return "–"
    return str(text).replace("|", "\\|").replace("<", "\\<").replace("\n", " ")


def _percent(share: Any, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %" if _known(share) else "–"


def _number(value: Any, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if _known(value) else "–"


def _points_text(share: Any) -> str:
    """A difference of shares in points, with its sign."""
    text = f"{100 * share:+.1f}".replace("-", "−") if _known(share) else "–"
    return text[1:] if text[1:] == "0.0" else text


def _p_value(value: Any) -> str:
    return "< 0.001" if _known(value) and value < 0.001 else _number(value, 3)


def _size(num_bytes: Any) -> str:
    if not _known(num_bytes):
        return "–"
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"


def _count(value: Any) -> str:
    if not _known(value):
        return "–"
    units = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
    return next((f"{value / u:.2f}{name}" for u, name in units if value >= u), f"{value:g}")


def _duration(seconds: Any) -> str:
    if not _known(seconds) or seconds < 120:
        return "–" if not _known(seconds) else f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min".removeprefix("0 h ")


def _context(report: dict[str, Any], details: Details) -> dict[str, Any]:
    files = report.get("files") or []
    device = next((row["latency"][0]["device"] for row in files if row.get("latency")), None)
    times = {row["name"]: _time_on(row, device) for row in files}
    chosen_name = (report.get("verdict") or {}).get("chosen_file")
    chosen = next((row for row in files if row["name"] == chosen_name), None)
    points = _points(files, times, chosen_name)
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
        "against_float": _against_float(chosen, files, times) if chosen else None,
        "power": _power_text(chosen["accuracy"]) if chosen else None,
        "points": points,
        "chart": _chart(points, times),
        "front": pareto_front(points),
        "curves": _curves(details.histories),
        "trained": [name for name in TRAINED if details.histories.get(name)],
        "distillation": (report.get("distillation") or {}).get("sentence"),
        "confusion": _confusion(report, details.confusion),
    }


def _time_on(row: dict[str, Any], device: str | None) -> dict[str, Any] | None:
    """The file's first latency row of one device, the only ones that may be compared."""
    return next((time for time in row.get("latency") or [] if time["device"] == device), None)


def _power_text(scores: dict[str, Any]) -> str | None:
    """Whether the test photos could have shown a drop of half a point."""
    power, drop = scores.get("half_point_power"), scores.get("detectable_drop")
    if power is None or drop is None:
        return None
    return (
        f"Had it lost 0.5 points, {scores['n']} test photos would show it in {100 * power:.0f} "
        f"of 100 cases; what they show in 80 of 100 is a loss of {100 * drop:.1f} points."
    )


def _against_float(
    chosen: dict[str, Any], files: list[dict[str, Any]], times: dict[str, Any]
) -> str | None:
    """Size and speed beside the student's float32 file, of the same format if there is one."""
    floats = [
        row
        for row in files
        if row.get("source") == "student" and str(row.get("recipe")).endswith("float32")
    ]
    if not floats or chosen in floats:
        return None
    other = min(floats, key=lambda row: row.get("format") != chosen.get("format"))
    said = [_times(other["file_bytes"] / chosen["file_bytes"], "smaller", "larger")]
    ours, theirs = times[chosen["name"]], times[other["name"]]
    if ours and theirs and ours.get("num_threads") == theirs.get("num_threads"):
        said.append(_times(theirs["p50_ms"] / ours["p50_ms"], "faster", "slower"))
    return f"{' and '.join(said)} than {other['name']}"


def _times(ratio: float, more: str, less: str) -> str:
    return f"{ratio:.1f} × {more}" if ratio >= 1 else f"{1 / ratio:.1f} × {less}"


def _points(files: list[dict[str, Any]], times: dict[str, Any], chosen: str | None) -> list[Point]:
    points = []
    for number, row in enumerate(files, 1):
        time, scores = times[row["name"]] or {}, row.get("accuracy") or {}
        x, (y, low, high) = time.get("p50_ms"), map(scores.get, ("top1", "top1_low", "top1_high"))
        if _known(x) and _known(y) and _known(low) and _known(high):
            points.append(Point(number, row["name"], x, y, low, high, row["name"] == chosen))
    return points


def _chart(points: list[Point], times: dict[str, Any]) -> str:
    if not points:
        return ""
    time = times[points[0].name]
    threads = f"{time['num_threads']} thread" + ("s" if time["num_threads"] > 1 else "")
    title = f"median latency in ms ({time['device']}, {threads})"
    return scatter(points, x_title=title, y_title="top-1 and its 95 % interval")


def _curves(histories: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
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
                if _known(row.get(key))
            ]
            for name in TRAINED
        }
        series = {name: points for name, points in series.items() if points}
        if series:
            charts.append((title, lines(series, x_title="epoch", y_title=title, percent=percent)))
    return charts


def _confusion(report: dict[str, Any], counts: list[list[int]] | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    classes = report["data"]["classes"]
    shown = sorted(range(len(classes)), key=lambda i: -sum(counts[i]))[:MAX_CLASSES_SHOWN]
    shown.sort()
    rows = []
    for i in shown:
        total = sum(counts[i]) or 1
        cells = [(counts[i][j], round(counts[i][j] / total, 3), i == j) for j in shown]
        rows.append((classes[i], cells, counts[i][i] / total))
    return {
        "classes": [classes[i] for i in shown],
        "rows": rows,
        "num_classes": len(classes),
        "most": _most_confused(classes, counts),
    }


def _most_confused(classes: list[str], counts: list[list[int]]) -> list[tuple[str, str, int]]:
    """(label, answer, photos) of the commonest mistakes, of all classes."""
    pairs = [
        (classes[i], classes[j], count)
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:MAX_CONFUSIONS]


def _thumbnail(photo: Path) -> str | None:
    """The photo as a data URI, or None where it is gone or unreadable."""
    try:
        pixels = evaluation_image(photo, THUMBNAIL)
    except (UnreadablePhoto, OSError):
        return None
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
