"""Errors that a user can act on. They are shown without a traceback."""


class UserError(Exception):
    """A mistake that the user can fix.

    The message says what happened, what was expected and what to type next.
    """

    exit_code = 2


class StepFailed(UserError):
    """A step that could not finish for a reason outside the command, such as a full disk."""

    exit_code = 1
