"""Errors that a user can act on. They are shown without a traceback."""

import errno

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


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or TensorFlow could not get memory."""
    is_short = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    return is_short and not ran_out_of_space(error)  # TensorFlow has one class for both


def ran_out_of_space(error: BaseException) -> bool:
    """Whether a disk was full."""
    return full_disk(error) is not None


def full_disk(error: BaseException) -> BaseException | None:
    """The error by which a full disk was noticed: this one, or one that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        # Libraries in C++, HDF5 among them, say it in their text only.
        if getattr(cause, "errno", None) in NO_SPACE or "No space left" in str(cause):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def failure_of(error: BaseException) -> str:
    """One line about an error, with its kind if it is not one of ours."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
