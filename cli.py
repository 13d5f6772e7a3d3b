"""The three programs: what goes wrong in them becomes a sentence and an exit code."""

import errno
import os
import sys
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow's first import

import typer

from commands.compress import app as compress_app
from commands.distill import app as distill_app
from commands.evaluate import app as evaluate_app
from configs.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def _program(app: typer.Typer) -> Callable[[], None]:
    def main() -> None:
        if "--debug" in sys.argv:
            app()
        try:
            app()
        except UserError as error:
            _stop(str(error), error.exit_code)
        except MemoryError:
            _stop("out of memory. Try smaller batches: --set student.batch_size=8", 1)
        except OSError as error:
            _stop(_explain(error), 1)
        except Exception as error:  # the last resort: a bug, or a library's own failure
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
            full = "No space left" in str(error)
            if full:
                _stop(_explain(OSError(errno.ENOSPC, first)), 1)
            _stop(
                f"{type(error).__name__}: {first}\nWhat is finished is kept; run again with "
                "--debug to see where this happened.",
                1,
            )

    return main


def _explain(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in NO_SPACE:
        return (
            f"no space left on the disk{where}. Finished steps are kept: make room and give the "
            "same command again, or name a run directory elsewhere with --run."
        )
    return f"{error.strerror or error}{where}. Check that the path exists and may be written to."


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


distill = _program(distill_app)
compress = _program(compress_app)
evaluate = _program(evaluate_app)
