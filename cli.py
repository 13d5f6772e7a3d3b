"""The three programs: how an error becomes one sentence and an exit code."""

import errno
import sys
from collections.abc import Callable

import typer

from commands.compress import app as compress_app
from commands.distill import app as distill_app
from commands.evaluate import app as evaluate_app
from commands.library_output import kept_from_the_terminal
from configs.errors import UserError, failure_of, printable, ran_out_of_memory, shortened

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def _program(app: typer.Typer) -> Callable[[], None]:
    def main() -> None:
        if "--debug" in sys.argv:
            app()
        try:
            with kept_from_the_terminal():
                app()
        except Exception as error:
            message, code = explain(error)
            print(f"error: {shortened(printable(message))}", file=sys.stderr)
            sys.exit(code)

    return main


def explain(error: Exception) -> tuple[str, int]:
    """What is printed for an error, and the exit code."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        return _of_the_system(error), 1
    if ran_out_of_memory(error):
        return (
            "out of memory. Finished steps are kept. Close other programs, or use fewer or smaller "
            "photos, and give the same command again.",
            1,
        )
    if "No space left" in str(error):
        return _of_the_system(OSError(errno.ENOSPC, failure_of(error))), 1
    # The last resort: a bug, or a library's own failure.
    return (
        f"{failure_of(error)}\nFinished steps are kept. Run again with --debug to see where this "
        "happened.",
        1,
    )


def _of_the_system(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in NO_SPACE:
        return (
            f"no space left on the disk{where}. Finished steps are kept. Make room and give the "
            "same command again, or name a run directory elsewhere with --run."
        )
    if error.errno == errno.EPIPE:
        return "the program or device at the other end of a pipe is gone. Start the command again."
    if error.filename:
        return f"{error.strerror}{where}. Check that the path exists and can be written to."
    return f"{error.strerror or error}. Run again with --debug to see where this happened."


distill = _program(distill_app)
compress = _program(compress_app)
evaluate = _program(evaluate_app)
