"""How the report writes numbers: the filters of its templates."""

import math
import re
from typing import Any, TypeGuard

from jinja2 import Undefined

from eval.timing.latency import milliseconds


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a report has a finite number there."""
    return isinstance(value, int | float) and math.isfinite(value)


def dash(value: Any) -> Any:
    """The value, or a dash for a missing one."""
    return "–" if value is None or isinstance(value, Undefined) else value


MARKUP = re.compile(r"[\\`*_\[\]<>|~#$&@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""The characters that Markdown reads as markup; the last three make links of plain addresses."""


def plain(text: object) -> str:
    """Text that Markdown shows as it is, on one line: nothing in it is markup or HTML."""
    return MARKUP.sub(r"\\\g<0>", " ".join(str(dash(text)).split()))


def percent(share: Any, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %" if is_number(share) else "–"


def number(value: Any, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if is_number(value) else "–"


def latency(value: Any) -> str:
    """A latency in ms."""
    return milliseconds(value) if is_number(value) else "–"


def points(share: Any) -> str:
    """A difference of shares in points, with its sign."""
    text = f"{100 * share:+.1f}".replace("-", "−") if is_number(share) else "–"
    return text[1:] if text[1:] == "0.0" else text


def p_value(value: Any) -> str:
    return "< 0.001" if is_number(value) and value < 0.001 else number(value, 3)


def size(num_bytes: Any) -> str:
    if not is_number(num_bytes):
        return "–"
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"


def count(value: Any) -> str:
    if not is_number(value):
        return "–"
    units = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
    return next((f"{value / u:.2f}{name}" for u, name in units if value >= u), f"{value:g}")


def duration(seconds: Any) -> str:
    if not is_number(seconds) or seconds < 120:
        return "–" if not is_number(seconds) else f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min".removeprefix("0 h ")


def ratio(value: float, more: str, less: str) -> str:
    """A ratio as "2.0 × smaller", or the other word below 1."""
    return f"{value:.1f} × {more}" if value >= 1 else f"{1 / value:.1f} × {less}"


def left_out(data: dict[str, int]) -> str:
    """A sentence about the photos without labels that the student did not learn from.

    Args:
        data: of report.json.
    """
    return (
        f"The student did not learn from {data['num_left_out']} of {data['num_unlabelled']} photos "
        "without labels, because its teacher was not sure enough of them."
    )


FILTERS = {
    "plain": plain,
    "percent": percent,
    "points": points,
    "number": number,
    "latency": latency,
    "p_value": p_value,
    "size": size,
    "count": count,
    "duration": duration,
    "left_out": left_out,
}
