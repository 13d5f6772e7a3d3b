"""The three programs: how an error becomes one sentence and an exit code."""

import errno
import sys
from collections.abc import Callable

import typer

from commands.compress import app as compress_app
from commands.distill import app as distill_app
from commands.evaluate import app as evaluate_app
from commands.library_output import kept_from_the_terminal
from configs.backend import check_backend, use_tensorflow
from configs.errors import UserError, failure_of, ran_out_of_memory

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def _program(app: typer.Typer, backend: Callable[[], None]) -> Callable[[], None]:
    """A program. `backend` chooses or checks the backend of Keras before anything imports it."""

    def main() -> None:
        if "--debug" in sys.argv:
            backend()
            app()
        try:
            backend()
            with kept_from_the_terminal():
                app()
        except UserError as error:
            _stop(str(error), error.exit_code)
        except OSError as error:
            _stop(_explain(error), 1)
        except Exception as error:  # the last resort: a bug, or a library's own failure
            if ran_out_of_memory(error):
                _stop(
                    "out of memory. Finished steps are kept. Close other programs, or use fewer "
                    "or smaller photos, and give the same command again.",
                    1,
                )
            if "No space left" in str(error):
                _stop(_explain(OSError(errno.ENOSPC, failure_of(error))), 1)
            _stop(
                f"{failure_of(error)}\nFinished steps are kept. Run again with --debug to see "
                "where this happened.",
                1,
            )

    return main


def _explain(error: OSError) -> str:
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


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


distill = _program(distill_app, check_backend)
compress = _program(compress_app, use_tensorflow)
evaluate = _program(evaluate_app, use_tensorflow)
