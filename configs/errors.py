"""Errors that a user can act on. They are shown without a traceback."""


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
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def failure_of(error: Exception) -> str:
    """One line about an error, with its kind if it is not one of ours."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
