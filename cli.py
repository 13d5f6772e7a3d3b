"""The three programs: how an error becomes one sentence and an exit code."""

import errno
import sys
from collections.abc import Callable

import typer

from commands.compress import app as compress_app
from commands.distill import app as distill_app
from commands.evaluate import app as evaluate_app
from commands.library_output import kept_from_the_terminal
from configs.errors import (
    UserError,
    failure_of,
    full_disk,
    printable,
    ran_out_of_memory,
    shortened,
)
from configs.process.backend import check_backend, use_tensorflow
from configs.process.ending import end_now
from configs.process.stopping import (
    Stopped,
    stop_if_requested,
    stop_is_requested,
    stops_on_signals,
)

NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)


def _program(app: typer.Typer, backend: Callable[[], None]) -> Callable[[], None]:
    """A program. `backend` chooses or checks the backend of Keras before anything imports it."""

    def main() -> None:
        with stops_on_signals():
            if "--debug" in sys.argv:
                backend()
                refuse_empty_words(sys.argv[1:])
                app()
            try:
                backend()
                refuse_empty_words(sys.argv[1:])
                with kept_from_the_terminal():
                    app()
            except (Stopped, Exception) as error:
                message, code = explain(error)
                print(f"error: {shortened(printable(message))}", file=sys.stderr, flush=True)
                if stop_is_requested():
                    end_now(code)  # Python would take seconds to take TensorFlow apart
                sys.exit(code)

    return main


def refuse_empty_words(words: list[str]) -> None:
    """Raise UserError for `distill run "$PHOTOS"` without such a variable.

    An empty path would be the present folder, and whatever lies there.
    """
    if "" in words:
        before = words[: words.index("")]
        where = f" behind {before[-1]}" if before else ""
        raise UserError(
            f"the word{where} is empty. Is a variable of your shell not set? Name the present "
            "folder as a dot."
        )


def explain(error: Stopped | Exception) -> tuple[str, int]:
    """What is printed for an error, and the exit code."""
    try:
        stop_if_requested()  # what a library made of it is no error of its own
    except Stopped as stopped:
        error = stopped
    if isinstance(error, Stopped):
        message = (
            f"stopped by {error.signal.name}. Finished steps are kept, and unfinished ones as far "
            "as they came: give the same command again to go on."
        )
        return message, error.exit_code
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if full_disk(error) or isinstance(error, OSError):
        return _of_the_system(error), 1
    if ran_out_of_memory(error):
        message = (
            "out of memory. Finished steps are kept. Close other programs, or use fewer or "
            "smaller photos, and give the same command again."
        )
        return message, 1
    # the last resort: a bug, or a library's own failure
    message = (
        f"{failure_of(error)}\nFinished steps are kept. Run again with --debug to see where this "
        "happened."
    )
    return message, 1


def _of_the_system(error: Exception) -> str:
    """What an error of a disk or a pipe means, and what to do."""
    noticed = full_disk(error)
    if noticed is not None:
        what = getattr(noticed, "filename", None) or failure_of(noticed)
        return (
            f"no space left on the disk ({what}). Finished steps are kept. Make room there and "
            "give the same command again, or use another disk: with --run for a run, with the "
            "variable TMPDIR for temporary files."
        )
    assert isinstance(error, OSError)
    name = error.filename
    where = f" ({name})" if name else ""
    if error.errno == errno.EPIPE:
        return "the program or device at the other end of a pipe is gone. Start the command again."
    if name and error.errno in NOT_ALLOWED:
        return (
            f"{error.strerror}{where}. Finished steps are kept. Make it readable and writable, or "
            "name a run directory elsewhere with --run."
        )
    if name:
        return f"{error.strerror}{where}. Check that the path exists and can be written to."
    return f"{error.strerror or error}. Run again with --debug to see where this happened."


distill = _program(distill_app, check_backend)
compress = _program(compress_app, use_tensorflow)
evaluate = _program(evaluate_app, use_tensorflow)
