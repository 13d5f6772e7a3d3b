import pytest

from configs import progress
from configs.progress import track


def test_the_first_step_says_nothing_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of a training compiles: 60 s here, where the others take 1 s."""
    clock = iter([0.0, 60.0, 61.0, 76.0])
    lines: list[str] = []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.log, "info", lambda text, *values: lines.append(text % values))
    with track("student", 100) as advance:
        advance(1)
        advance(2)
        advance(17)
    assert [line.strip() for line in lines] == ["student 1/100", "student 17/100, 83 s left"]
