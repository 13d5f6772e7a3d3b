from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Disagreement:
    photo: Path
    label: str
    source_answer: str
    source_confidence: float
    file_answer: str
    file_confidence: float


@dataclass(frozen=True)
class Details:
    histories: dict
    confusion: list | None
    disagreements: list


def render_html(report, details):
    return "x"


def render_markdown(report, details):
    return "x"
