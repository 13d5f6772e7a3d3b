"""Charts as SVG text. Colours come from the page's CSS, so they follow its light or dark theme."""

import math
from dataclasses import dataclass
from html import escape

# Narrow, so that the text can be read on a phone without scrolling; the page scales it.
WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 48
RADIUS = 10


@dataclass(frozen=True)
class Point:
    """A numbered mark of a scatter chart, with the interval of its y."""

    number: int
    name: str
    x: float
    y: float
    low: float
    high: float
    chosen: bool = False


@dataclass(frozen=True)
class Axis:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float]

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def axis(
    values: list[float], *, start: float, end: float, zero: bool = False, whole: bool = False
) -> Axis:
    """An axis over `values` with about five ticks at round numbers.

    Args:
        start, end: of the axis, in pixels.
        zero: begin at 0.
        whole: put ticks at whole numbers only.
    """
    low, high = (0.0 if zero else min(values)), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / 4
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    step = max(round(step), 1) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [i * step for i in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], start, end, ticks)


def pareto_front(points: list[Point]) -> list[Point]:
    """The points that no other point beats in both, less x and more y. Sorted by x."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def _frame(x: Axis, y: Axis, *, x_title: str, y_title: str, percent: bool) -> list[str]:
    parts = []
    for tick in y.ticks:
        text = f"{100 * tick:g} %" if percent else f"{tick:.4g}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(tick):.1f}" '
            f'y2="{y.at(tick):.1f}"/><text class="tick" text-anchor="end" x="{LEFT - 8}" '
            f'y="{y.at(tick) + 4:.1f}">{text}</text>'
        )
    for tick in x.ticks:
        parts.append(
            f'<line class="grid" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="{x.at(tick):.1f}" '
            f'x2="{x.at(tick):.1f}"/><text class="tick" text-anchor="middle" '
            f'x="{x.at(tick):.1f}" y="{HEIGHT - BOTTOM + 18}">{tick:.4g}</text>'
        )
    parts.append(
        f'<text class="title" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" '
        f'y="{HEIGHT - 6}">{escape(x_title)}</text>'
        f'<text class="title" x="4" y="15">{escape(y_title)}</text>'
    )
    return parts


def _svg(parts: list[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def scatter(points: list[Point], *, x_title: str, y_title: str) -> str:
    """Accuracy against cost: numbered marks, their intervals, and the Pareto front."""
    x = axis([p.x for p in points], start=LEFT, end=WIDTH - RIGHT, zero=True)
    y = axis([v for p in points for v in (p.low, p.high)], start=HEIGHT - BOTTOM, end=TOP)
    parts = _frame(x, y, x_title=x_title, y_title=y_title, percent=True)
    steps: list[str] = []
    for point in pareto_front(points):
        if steps:
            steps.append(f"H {x.at(point.x):.1f}")
        steps.append(f"{'V' if steps else f'M {x.at(point.x):.1f}'} {y.at(point.y):.1f}")
    parts.append(f'<path class="front" d="{" ".join(steps)}"/>')
    for point in points:
        parts.append(
            f'<line class="interval" x1="{x.at(point.x):.1f}" x2="{x.at(point.x):.1f}" '
            f'y1="{y.at(point.low):.1f}" y2="{y.at(point.high):.1f}"/>'
        )
    parts += _marks([(point, x.at(point.x), y.at(point.y)) for point in points])
    names = ", ".join(f"{p.number} {p.name} {100 * p.y:.1f} % at {p.x:.3g}" for p in points)
    return _svg(parts, f"{y_title} against {x_title}: {names}")


def _marks(places: list[tuple[Point, float, float]]) -> list[str]:
    """A dot at every point, and its number on it, or beside it if another mark is there."""
    dots, numbers = [], []
    taken: list[tuple[float, float]] = []
    for point, px, py in places:
        # A mark cannot avoid a dot at the same place.
        others = [(a, b) for _, a, b in places if math.hypot(a - px, b - py) > 3]
        mx, my = _free_place(px, py, taken=taken, dots=others)
        taken.append((mx, my))
        kind = "chosen" if point.chosen else "other"
        title = f"{point.name}: {100 * point.y:.1f} %, {point.x:.4g}"
        dots.append(
            f'<path class="leader {kind}" d="M {px:.1f} {py:.1f} L {mx:.1f} {my:.1f}"/>'
            f'<path class="dot {kind}" d="M {px:.1f} {py:.1f} h 0"/>'
        )
        numbers.append(
            f'<g class="mark {kind}"><title>{escape(title)}</title>'
            f'<circle cx="{mx:.1f}" cy="{my:.1f}" r="{RADIUS}"/>'
            f'<text text-anchor="middle" dy=".36em" x="{mx:.1f}" y="{my:.1f}">{point.number}</text>'
            "</g>"
        )
    return dots + numbers


def _free_place(
    px: float,
    py: float,
    *,
    taken: list[tuple[float, float]],
    dots: list[tuple[float, float]],
) -> tuple[float, float]:
    """The nearest place to (px, py) where a mark covers neither another mark nor a dot."""
    for away in (0, *range(RADIUS + 6, WIDTH // 3, 6)):
        for turn in range(16 if away else 1):
            angle = math.tau * turn / 16
            mx, my = px + away * math.cos(angle), py + away * math.sin(angle)
            inside = LEFT <= mx <= WIDTH - RADIUS and TOP <= my <= HEIGHT - BOTTOM
            clear = all(math.hypot(mx - a, my - b) > 2 * RADIUS + 3 for a, b in taken)
            if inside and clear and all(math.hypot(mx - a, my - b) > RADIUS + 3 for a, b in dots):
                return mx, my
    return px, py


def lines(
    series: dict[str, list[tuple[float, float]]], *, x_title: str, y_title: str, percent: bool
) -> str:
    """A line for every series of (x, y); its CSS class is its name."""
    all_points = [point for points in series.values() for point in points]
    x = axis([p[0] for p in all_points], start=LEFT, end=WIDTH - RIGHT, whole=True)
    y = axis([p[1] for p in all_points], start=HEIGHT - BOTTOM, end=TOP)
    parts = _frame(x, y, x_title=x_title, y_title=y_title, percent=percent)
    for name, points in series.items():
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
        dots = "".join(
            f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="2.5"/>' for a, b in points
        )
        kind = f"series {escape(name)}"
        parts.append(f'<g class="{kind}"><polyline points="{path}"/>{dots}</g>')
    last = ", ".join(f"{name} ends at {points[-1][1]:.3g}" for name, points in series.items())
    return _svg(parts, f"{y_title} by {x_title}: {last}")
