import math
import re

import pytest

from eval.report.charts import (
    Point,
    axis,
    lines,
    pareto_front,
    scatter,
)


def point(number: int, x: float, y: float) -> Point:
    return Point(number, f"file {number}", x, y, y - 0.02, y + 0.02)


def test_the_front_holds_what_no_other_point_beats() -> None:
    points = [point(1, 1.0, 0.7), point(2, 2.0, 0.9), point(3, 3.0, 0.8), point(4, 2.0, 0.6)]
    assert [p.number for p in pareto_front(points)] == [1, 2]


@pytest.mark.parametrize("values", [[0.81, 0.86], [3.0, 1700.0], [0.5, 0.5], [-2.0, 0.1]])
def test_an_axis_covers_its_values_with_round_ticks(values: list[float]) -> None:
    line = axis(values, start=0, end=100)
    assert line.low <= min(values)
    assert line.high >= max(values)
    assert 2 <= len(line.ticks) <= 8
    step = line.ticks[1] - line.ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert any(mantissa == pytest.approx(round_one) for round_one in (1, 2, 2.5, 5))


def test_epochs_are_counted_in_whole_numbers() -> None:
    chart = lines({"student": [(1, 0.1), (2, 0.2)]}, x_title="epoch", y_title="a", percent=True)
    assert "1.5" not in re.findall(r">([\d.]+)<", chart)


def test_marks_at_one_place_do_not_cover_each_other() -> None:
    chart = scatter([point(i, 1.0, 0.9) for i in range(1, 9)], x_title="ms", y_title="top-1")
    centres = [tuple(map(float, c)) for c in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart)]
    assert len(centres) == 8
    for i, (x, y) in enumerate(centres):
        assert all(math.hypot(x - a, y - b) >= 22 for a, b in centres[:i])


def test_names_are_escaped() -> None:
    bad = Point(1, "<script>alert(1)</script>", 1.0, 0.5, 0.4, 0.6)
    assert "<script>" not in scatter([bad], x_title="<b>", y_title="top-1")
