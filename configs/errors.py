"""What goes wrong in a way the user can act on; shown without a traceback."""


class UserError(Exception):
    """A problem the user can fix: says what came, what was expected, what to do next."""

    exit_code = 2


class StepFailed(UserError):
    """A step that could not finish though nothing the user wrote was wrong (a full disk, say)."""

    exit_code = 1
