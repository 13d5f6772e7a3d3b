"""Progress of long work: Rich bars on a terminal, a bar in a notebook, plain lines elsewhere."""

import html
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

log = logging.getLogger("potstill")

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_UPDATES = 0.2
"""Of a bar in a notebook, which is sent to a browser each time."""

console = Console(stderr=True)
quiet = False
"""True after --quiet, which turns off all progress."""

Advance = Callable[..., None]
"""advance(num_done, note=""): reports how many units are done so far, with a short note."""


@contextmanager
def track(description: str, total: int) -> Iterator[Advance]:
    """Show the progress of `total` units of work.

    Yields:
        A function to call as the work goes on; see `Advance`.
    """
    if quiet:
        yield lambda num_done, note="": None
    elif console.is_terminal:
        with _bar() as bar:
            task = bar.add_task(description, total=total, note="")
            yield lambda num_done, note="": bar.update(task, completed=num_done, note=note)
    elif console.is_jupyter:
        yield _cell(description, total)
    else:
        yield _lines(description, total)


def announce(text: str) -> None:
    """Print what a user has to read now, whatever --quiet says. No line of it is wrapped.

    Args:
        text: may hold ANSI colours.
    """
    console.print(Text.from_ansi(text), soft_wrap=True, highlight=False)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _cell(description: str, total: int) -> Advance:
    """One bar in the output of a notebook's cell, which stays when the work is done."""
    from IPython.display import display  # a kernel has it

    first = time.monotonic()

    def shown(num_done: int, note: str) -> dict[str, str]:
        left = _time_left(time.monotonic() - first, num_done, total - num_done)
        text = f"{description} {num_done}/{total}{left if num_done < total else ''} {note}".rstrip()
        bar = f'<progress value="{num_done}" max="{total}"></progress> {html.escape(text)}'
        return {"text/plain": text, "text/html": bar}

    handle = display(shown(0, ""), raw=True, display_id=True)
    last_update = first

    def advance(num_done: int, note: str = "") -> None:
        nonlocal last_update
        now = time.monotonic()
        if num_done >= total or now - last_update >= SECONDS_BETWEEN_UPDATES:
            last_update = now
            handle.update(shown(num_done, note), raw=True)

    return advance


def _lines(description: str, total: int) -> Advance:
    last_line = time.monotonic()
    first: tuple[float, int] | None = None

    def advance(num_done: int, note: str = "") -> None:
        nonlocal last_line, first
        now = time.monotonic()
        # The rate starts at the first report. The time before it was spent on compiling, and the
        # units before it may have been done by an earlier process.
        first = first or (now, num_done)
        if num_done < total and now - last_line < SECONDS_BETWEEN_LINES:
            return
        last_line = now
        left = _time_left(now - first[0], num_done - first[1], total - num_done)
        log.info("%s %d/%d%s %s", description, num_done, total, left, note)

    return advance


def _time_left(seconds: float, num_done: int, num_left: int) -> str:
    """The remaining time at the rate so far, as in ", 170 s left"; empty before there is a rate."""
    return f", {seconds * num_left / num_done:.0f} s left" if num_done else ""
