import sys
import types

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


def test_a_notebook_gets_one_bar_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The display of a kernel, without a kernel: what is sent to the browser."""
    sent: list[dict[str, str]] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            sent.append(data)

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        sent.append(data)
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress.console, "is_jupyter", True)
    # The start, then for each report its time, and the time of the text that is shown.
    clock = iter([0.0, 0.0, 0.1, 2.0, 2.0, 2.1, 4.0, 4.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with track("student <1>", 4) as advance:
        advance(1)  # too soon after the start
        advance(2, "loss 0.5")
        advance(3)
        advance(4)
    assert [data["text/plain"] for data in sent] == [
        "student <1> 0/4", "student <1> 2/4, 2 s left loss 0.5", "student <1> 4/4",
    ]  # fmt: skip
    assert sent[1]["text/html"].startswith('<progress value="2" max="4"></progress> student &lt;1')
