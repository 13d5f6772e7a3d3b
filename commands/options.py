"""What commands have in common: options, logging and how a result is printed."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.errors import UserError

if TYPE_CHECKING:
    from configs.registry import Registry
    from configs.run_dir import RunDir
    from configs.schema import BudgetConfig, Experiment

Target = Annotated[
    str,
    typer.Argument(
        help="A config file, the name of a bundled one (quickstart), a folder of photos, "
        "or a run directory.",
        show_default=False,
    ),
]
Run = Annotated[
    Path | None, typer.Option("--run", help="Run directory.", show_default="runs/<config name>")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change the config; repeatable."),
]
Force = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="STEP", help="Redo a step that is up to date; repeatable."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Neither progress nor notes.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on the last line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def start_logging(quiet: bool) -> None:
    """Send notes to standard error, in the way the progress goes."""
    from rich.logging import RichHandler

    from configs import progress

    progress.quiet = quiet
    logging.raiseExceptions = False  # a log that cannot be written stops nothing
    handler: logging.Handler
    if progress.console.is_terminal:
        handler = RichHandler(console=progress.console, show_path=False, show_level=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    logger = logging.getLogger("potstill")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """TensorFlow greets on file descriptor 2 before any setting can stop it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _registries() -> "Mapping[str, Registry]":
    with _silent_stderr():
        from compress.registries import REGISTRIES
    return REGISTRIES


def open_run(
    target: str, run: Path | None, overrides: list[str] | None
) -> "tuple[RunDir, Experiment]":
    """The run directory and the checked experiment of a TARGET; see `configs.loading.targets`."""
    from configs.loading import targets

    return targets.open_run(target, run=run, overrides=overrides or [], registries=_registries)


def open_config(target: str, overrides: list[str] | None) -> "Experiment":
    """The checked experiment of a TARGET, without its run directory."""
    from configs.loading import targets

    return targets.open_config(target, overrides=overrides or [], registries=_registries)


def budget_of(limits: dict[str, float | None]) -> "BudgetConfig | None":
    """The budget that options of a command give; None where they give no limit.

    Raises:
        UserError: a limit is out of its range.
    """
    from pydantic import ValidationError

    from configs.schema import BudgetConfig

    given = {name: value for name, value in limits.items() if value is not None}
    try:
        return BudgetConfig.model_validate(given) if given else None
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise UserError(f"--{name.replace('_', '-')} is {given[name]}: {problem['msg']}.") from None


def refuse(target: str, why: str, **given: Any) -> None:
    """Raise UserError for an option that would have no effect on this kind of target."""
    for name, value in given.items():
        if value is not None and value != []:
            option = name.strip("_").replace("_", "-")
            raise UserError(f"--{option} has no effect on {target}: {why}")


def show_result(value: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print one result: a sentence or table for people, or JSON on the last line."""
    typer.echo(json.dumps(value, default=str) if as_json else text)
