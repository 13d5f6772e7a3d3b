"""What libraries print is kept from the terminal, and shown if they crash the process.

TensorFlow, LiteRT and others greet and warn on file descriptor 2, from C++ code that no setting
of theirs silences. So the descriptor leads to a small process that remembers the last lines, and
Python's own standard error leads to the terminal. If this process ends without saying that all is
well, that one prints the lines.
"""

import io
import logging
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from configs import errors

NUM_LINES = 20
ALL_IS_WELL = b"\npotstill: the end\n"
STANDARD_ERROR = 2
KILLED = (
    "error: the process was killed or crashed. Finished steps are kept: give the same command "
    "again to go on.\n"
)
CRASHED = (
    "error: the process crashed while it opened {file}. The file is damaged, or made to do harm. "
    "Make it again, or get it again from where it came from. Finished steps are kept.\n"
)


@contextmanager
def kept_from_the_terminal() -> Iterator[None]:
    """Inside the block, only Python writes to the terminal's standard error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow's first import
    logging.getLogger("absl").setLevel(logging.ERROR)
    terminal = os.dup(STANDARD_ERROR)
    output = _start_memory(terminal)
    before = sys.stderr
    if _is_standard_error(before):
        sys.stderr = io.TextIOWrapper(
            io.FileIO(terminal, "w", closefd=False), line_buffering=True, errors="replace"
        )
    os.dup2(output, STANDARD_ERROR)
    os.close(output)
    errors.watcher = STANDARD_ERROR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        errors.watcher = None
        sys.stderr.flush()
        sys.stderr = before
        os.write(STANDARD_ERROR, ALL_IS_WELL)
        os.dup2(terminal, STANDARD_ERROR)
        os.close(terminal)


def _is_standard_error(stream: object) -> bool:
    """Whether a stream writes to the descriptor; one that a test put there does not."""
    try:
        return stream.fileno() == STANDARD_ERROR  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def _start_memory(terminal: int) -> int:
    """Start the process that remembers the last lines; returns where to write them."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(reading)
        return writing
    try:
        os.close(writing)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program alone
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, STANDARD_ERROR):  # a pipe that is read to its end must end
            os.dup2(nothing, descriptor)
        files: list[bytes] = []
        lines, rest = deque[bytes](maxlen=NUM_LINES), b""
        while part := os.read(reading, 1 << 16):
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                if line.startswith(errors.OPENS):
                    files.append(line.removeprefix(errors.OPENS))
                elif line == errors.IS_OPEN and files:
                    files.pop()
                elif line.strip():
                    lines.append(line)
        if ALL_IS_WELL.strip() not in lines:
            file = errors.printable(os.fsdecode(files[-1])) if files else ""
            said = [(CRASHED.format(file=file) if file else KILLED).strip().encode()]
            if lines or rest.strip():
                said += [b"The last lines of the libraries:", *lines, rest]
            os.write(terminal, b"\n".join(said).strip() + b"\n")
    finally:
        os._exit(0)
