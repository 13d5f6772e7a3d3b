"""Errors that a user can act on. They are shown without a traceback."""

import errno
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class UserError(Exception):
    """A mistake that the user can fix.

    The message says what happened, what was expected and what to type next.
    """

    exit_code = 2


class StepFailed(UserError):
    """A step that could not finish for a reason outside the command, such as a full disk."""

    exit_code = 1


class OutOfMemory(StepFailed):
    """A step that needs more memory than there is. Its message says how it needs less."""


def is_of_the_disk(error: OSError) -> bool:
    """Whether a disk is the reason, rather than what stands in a file.

    A damaged file may name a place before its own beginning, which the system refuses (EINVAL).
    """
    return error.errno not in (None, errno.EINVAL)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or TensorFlow could not get memory."""
    is_short = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    return is_short and not ran_out_of_space(error)  # TensorFlow has one class for both


def ran_out_of_space(error: BaseException) -> bool:
    """Whether a disk was full."""
    return full_disk(error) is not None


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory or a disk ran short, which says nothing of the file that was read."""
    return ran_out_of_memory(error) or ran_out_of_space(error)


def full_disk(error: BaseException) -> BaseException | None:
    """The error by which a full disk was noticed: this one, or one that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        # Libraries in C++, HDF5 among them, say it in their text only.
        if getattr(cause, "errno", None) in NO_SPACE or "No space left" in str(cause):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


MAX_LINE = 1000
MAX_LINES = 40
TURNS_TEXT = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that reverse the order of what follows, so that gnp.exe reads exe.png."""


def printable(text: str) -> str:
    """The text with escapes in place of characters that a terminal obeys.

    Texts quote names from command lines and from files of strangers.
    """
    return "".join(ascii(c)[1:-1] if _is_obeyed(c) else c for c in text)


def _is_obeyed(character: str) -> bool:
    # Controls, and halves of characters that no file can hold.
    is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
    return is_control or character in TURNS_TEXT


def shortened(text: str) -> str:
    """The text without the middle of very long lines, and of very many lines."""
    lines = [
        line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 205]} ... {line[-200:]}"
        for line in text.splitlines()
    ]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 5 : -5] = [f"... {len(lines) - MAX_LINES} more lines"]
    return "\n".join(lines)


def failure_of(error: BaseException) -> str:
    """One line about an error, with its kind if it is not one of ours."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


OPENS = b"potstill: opens "
IS_OPEN = b"potstill: is open"

watcher: int | None = None
"""The descriptor that the process reads which watches this one; see commands/library_output.py."""


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Inside the block, a library opens a file that may be damaged.

    Libraries crash on some damaged files, which no Python can catch. The watching process then
    names the file.
    """
    _tell_watcher(OPENS + os.fsencode(path).replace(b"\n", b"?"))
    try:
        yield
    finally:
        _tell_watcher(IS_OPEN)


def _tell_watcher(line: bytes) -> None:
    if watcher is not None:
        os.write(watcher, b"\n" + line + b"\n")
