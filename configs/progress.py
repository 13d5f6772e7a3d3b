"""How long work shows itself: Rich bars on a terminal, plain lines elsewhere, on standard error."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("potstill")

SECONDS_BETWEEN_LINES = 15.0
console = Console(stderr=True)
quiet = False
"""Set by --quiet: no bars and no lines."""


Advance = Callable[..., None]
"""advance(num_done, note=""): how much of the work is done so far, and what to say of it."""


@contextmanager
def track(description: str, total: int) -> Iterator[Advance]:
    """Show the progress of `total` units of work.

    Yields:
        A function that takes how many units are done so far and a short note.
    """
    if quiet:
        yield lambda num_done, note="": None
    elif console.is_terminal:
        with _bar() as bar:
            task = bar.add_task(description, total=total, note="")
            yield lambda num_done, note="": bar.update(task, completed=num_done, note=note)
    else:
        yield _lines(description, total)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _lines(description: str, total: int) -> Advance:
    last = time.monotonic()
    first: tuple[float, int] | None = None

    def advance(num_done: int, note: str = "") -> None:
        nonlocal last, first
        now = time.monotonic()
        # The first report ends what is done once (compiling, decoding), or what an earlier
        # process did: neither says how long the rest takes.
        first = first or (now, num_done)
        if num_done < total and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        left = _time_left(now - first[0], num_done - first[1], total - num_done)
        log.info("%s %d/%d%s %s", description, num_done, total, left, note)

    return advance


def _time_left(seconds: float, num_done: int, num_left: int) -> str:
    """ ", 170 s left", by the rate so far; empty while there is no rate."""
    return f", {seconds * num_left / num_done:.0f} s left" if num_done else ""
