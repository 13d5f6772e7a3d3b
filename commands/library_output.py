"""What libraries print is kept from the terminal, and shown if they crash the process.

TensorFlow, LiteRT and others greet and warn on file descriptor 2, from C++ code that no setting
of theirs silences. So the descriptor leads to a small process that remembers the last lines, and
Python's own standard error leads to the terminal. If this process ends without saying that all is
well, that one prints the lines.

It also ends this process if it was asked to end and does not. Python cannot do that: it hears of a
signal when a library's C++ code returns.
"""

import atexit
import io
import logging
import os
import selectors
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from configs import errors
from configs.process.ending import end_now
from configs.process.stopping import SECONDS_TO_STOP, SIGNALS

NUM_LINES = 20
ALL_IS_WELL = b"\npotstill: the end\n"
STANDARD_ERROR = 2
KEPT = "Finished steps are kept: give the same command again to go on.\n"
KILLED = f"error: the process was killed or crashed. {KEPT}"
TOO_SLOW = (
    f"error: the process was asked to end, was still busy {SECONDS_TO_STOP:.0f} s later, and was "
    f"killed. {KEPT}"
)
CRASHED = (
    "error: the process was killed or crashed while it opened {file}. Finished steps are kept: "
    "give the same command again to go on. If it ends here again, the file is damaged or made to "
    "do harm: make it again, or get it again from where it came from.\n"
)
JAX_GAVE_UP = b"JAX distributed service detected fatal errors"
"""JAX ends a process at once when process 0 is gone. Nothing in Python can prevent it."""
PROCESS_0_DIED = (
    "error: process 0 has died or cannot be reached. Finished epochs are kept. Give the same "
    "command again, on as many processes as you like.\n"
)


_is_kept = False


@contextmanager
def kept_from_the_terminal() -> Iterator[None]:
    """Inside the block, only Python writes to the terminal's standard error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow's first import
    logging.getLogger("absl").setLevel(logging.ERROR)
    terminal = os.dup(STANDARD_ERROR)
    output, signals = _start_memory(terminal)
    before = sys.stderr
    if _is_standard_error(before):
        sys.stderr = io.TextIOWrapper(
            io.FileIO(terminal, "w", closefd=False), line_buffering=True, errors="replace"
        )
    os.dup2(output, STANDARD_ERROR)
    os.close(output)
    # Python's handler in C writes the number of a signal there at once, whatever the process does.
    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
    errors.watcher = STANDARD_ERROR
    global _is_kept
    _is_kept = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(signals)
        errors.watcher = None
        sys.stderr.flush()
        sys.stderr = before
        os.write(STANDARD_ERROR, ALL_IS_WELL)
        os.dup2(terminal, STANDARD_ERROR)
        os.close(terminal)
        _is_kept = False


def end_at_once(message: str) -> NoReturn:
    """Show an error and end this process, although other threads of it may wait for something."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    if _is_kept:
        os.write(STANDARD_ERROR, ALL_IS_WELL)
    end_now(1)


def end_without_waiting(code: int) -> None:
    """When this process ends, let no library wait for other processes in its last words."""

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        end_now(code)

    atexit.register(end)  # it runs before what libraries have registered


def _is_standard_error(stream: object) -> bool:
    """Whether a stream writes to the descriptor; one that a test put there does not."""
    try:
        return stream.fileno() == STANDARD_ERROR  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def _start_memory(terminal: int) -> tuple[int, int]:
    """Start the process that remembers the last lines.

    Returns:
        Where to write them, and where to write the number of a signal that arrived.
    """
    program = os.getpid()
    lines, writing = os.pipe()
    signals, signalling = os.pipe()
    if os.fork():
        os.close(lines)
        os.close(signals)
        os.set_blocking(signalling, False)
        return writing, signalling
    try:
        for number in SIGNALS:  # they are for the program alone
            signal.signal(number, signal.SIG_IGN)
        os.close(writing)
        os.close(signalling)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, STANDARD_ERROR):  # a pipe that is read to its end must end
            os.dup2(nothing, descriptor)
        memory = _watch(lines, signals)
        if memory is None:
            os.kill(program, signal.SIGKILL)
            os.write(terminal, TOO_SLOW.encode())
        elif not memory.all_is_well:
            os.write(terminal, memory.last_words())
    finally:
        os._exit(0)


class _Memory:
    """The last lines of the libraries, and the files that they are opening."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=NUM_LINES)
        self._rest = b""
        self._files: list[bytes] = []
        self._jax_gave_up = False

    @property
    def all_is_well(self) -> bool:
        return ALL_IS_WELL.strip() in self._lines

    def add(self, part: bytes) -> None:
        *whole, self._rest = (self._rest + part).split(b"\n")
        for line in whole:
            self._jax_gave_up |= JAX_GAVE_UP in line
            if line.startswith(errors.OPENS):
                self._files.append(line.removeprefix(errors.OPENS))
            elif line == errors.IS_OPEN and self._files:
                self._files.pop()
            elif line.strip():
                self._lines.append(line)

    def last_words(self) -> bytes:
        """What to print about a program that said nothing at its end."""
        if self._jax_gave_up:
            return PROCESS_0_DIED.encode()
        file = errors.printable(os.fsdecode(self._files[-1])) if self._files else ""
        said = [(CRASHED.format(file=file) if file else KILLED).strip().encode()]
        if self._lines or self._rest.strip():
            said += [b"The last lines of the libraries:", *self._lines, self._rest]
        return b"\n".join(said).strip() + b"\n"


def _watch(lines: int, signals: int) -> _Memory | None:
    """What the program wrote until it ended; None if it was asked to end and does not."""
    memory, deadline = _Memory(), float("inf")
    with selectors.DefaultSelector() as selector:
        selector.register(lines, selectors.EVENT_READ)
        selector.register(signals, selectors.EVENT_READ)
        while (seconds := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(min(seconds, 3600.0)):
                part = os.read(key.fd, 1 << 16)
                if key.fd == lines and not part:
                    return memory
                if key.fd == lines:
                    memory.add(part)
                elif not part:
                    selector.unregister(signals)
                elif set(part) & set(SIGNALS):
                    deadline = min(deadline, time.monotonic() + SECONDS_TO_STOP)
    return None
