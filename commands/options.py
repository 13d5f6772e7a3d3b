"""The options that commands share, declared once, and how every command prints its result.

A command declares its own arguments and a parameter of one of the option classes below. `command`
adds the options of that class, and `--quiet`, `--json` and `--debug`, to what Typer sees.
"""

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.errors import UserError, printable

if TYPE_CHECKING:
    from configs.registry import Registry
    from configs.run_dir import RunDir
    from configs.schema import Experiment
    from configs.schema.files import BudgetConfig

Target = Annotated[
    str,
    typer.Argument(
        help="A config file, the name of a bundled config (quickstart), a folder of photos, "
        "or a run directory.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress and no notes.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on the last line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class ConfigOptions:
    """Options of commands that read a config."""

    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change the config; repeatable."),
    ] = None


@dataclass(frozen=True)
class RunOptions(ConfigOptions):
    """Options of commands that open a run directory."""

    run: Annotated[
        Path | None, typer.Option("--run", help="Run directory.", show_default="runs/<config name>")
    ] = None


@dataclass(frozen=True)
class StepOptions(RunOptions):
    """Options of commands that do steps of a run."""

    force: Annotated[
        list[str] | None,
        typer.Option("--force", metavar="STEP", help="Redo a step that is up to date; repeatable."),
    ] = None


@dataclass(frozen=True)
class CodeOptions:
    """Which code of a model's author may run."""

    import_: Annotated[
        list[Path] | None,
        typer.Option(
            "--import",
            metavar="FILE.py",
            help="For a model: Python file that defines its custom layers; repeatable.",
        ),
    ] = None
    allow_lambda: Annotated[
        bool | None,
        typer.Option("--allow-lambda", help="For a model: run the code of its Lambda layers."),
    ] = None


@dataclass(frozen=True)
class EdgeOptions:
    """The types of the numbers that a file takes and returns."""

    input_type: Annotated[
        str | None,
        typer.Option("--input-type", metavar="uint8|int8", help="Of the image in int8 files."),
    ] = None
    output_type: Annotated[
        str | None,
        typer.Option("--output-type", metavar="uint8|int8", help="Of the answers in int8 files."),
    ] = None

    def given(self) -> dict[str, str]:
        """The options that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class LimitOptions:
    """The limits of the file that is looked for."""

    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="For a model: find the fastest file that loses at most this share of top-1 "
            "(0.005 is half a point). Without --recipe, all useful recipes are tried.",
            show_default="0.01 if another limit is given",
        ),
    ] = None
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", help="The same, with a limit on the median.")
    ] = None
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", help="The same, with a limit on the size.")
    ] = None

    def budget(self) -> "BudgetConfig | None":
        """The budget that the options give; None without a limit.

        Raises:
            UserError: a limit is out of its range.
        """
        from pydantic import ValidationError

        from configs.schema.files import BudgetConfig

        given = {name: value for name, value in vars(self).items() if value is not None}
        try:
            return BudgetConfig.model_validate(given) if given else None
        except ValidationError as error:
            problem = error.errors()[0]
            name = str(problem["loc"][0])
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {given[name]}: {problem['msg']}.") from None


@dataclass(frozen=True)
class Result:
    """What a command prints.

    Attributes:
        value: for programs, printed by --json.
        text: for people.
        exit_code: 0, or 1 if the command ran and found a failure.
        then: what the command goes on with after it printed this.
    """

    value: Mapping[str, Any]
    text: str
    exit_code: int = 0
    then: Callable[[], None] | None = None


def command(app: typer.Typer) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Register a command that returns its result, with the shared options."""

    def register(function: Callable[..., Result]) -> Callable[..., None]:
        parameters = inspect.signature(function).parameters.values()
        groups: Mapping[str, Any] = {
            p.name: p.annotation for p in parameters if is_dataclass(p.annotation)
        }

        @functools.wraps(function)
        def run(*, quiet: bool, json: bool, debug: bool, **arguments: Any) -> None:
            start_logging(quiet)
            for name, group in groups.items():
                chosen = {field.name: arguments.pop(field.name) for field in fields(group)}
                arguments[name] = group(**chosen)
            result = function(**arguments)
            typer.echo(dump(result.value) if json else printable(result.text))
            if result.then:
                result.then()
            if result.exit_code:
                raise typer.Exit(result.exit_code)

        shared = [_parameter(field) for group in groups.values() for field in fields(group)]
        shared += [
            inspect.Parameter(name, KEYWORD, default=False, annotation=annotation)
            for name, annotation in (("quiet", Quiet), ("json", Json), ("debug", Debug))
        ]
        own = [p.replace(kind=KEYWORD) for p in parameters if p.name not in groups]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        app.command()(run)
        return run

    return register


KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _parameter(field: Any) -> inspect.Parameter:
    """A field of an option class as Typer expects a parameter."""
    return inspect.Parameter(field.name, KEYWORD, default=field.default, annotation=field.type)


def dump(value: Any) -> str:
    """A result as one line of JSON."""
    return json.dumps(value, default=str)


def new_app(help_text: str) -> typer.Typer:
    """A program without commands yet, which knows `--version`."""
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback(help=help_text)
    def main(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=_print_version, is_eager=True, help="Print the version."
            ),
        ] = False,
    ) -> None:
        pass

    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"potstill {version('potstill')}")
        raise typer.Exit


def start_logging(quiet: bool) -> None:
    """Send notes to standard error, where the progress bars are."""
    from rich.logging import RichHandler

    from configs import progress

    progress.quiet = quiet
    logging.raiseExceptions = False  # a full disk stops the log file, not the command
    handler: logging.Handler
    if progress.console.is_terminal:
        handler = RichHandler(console=progress.console, show_path=False, show_level=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable())
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    logger = logging.getLogger("potstill")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Printable(logging.Formatter):
    """The message alone."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def _registries() -> "Mapping[str, Registry]":
    from compress.config_choices import REGISTRIES

    return REGISTRIES


def open_run(
    target: str, options: RunOptions, *, writes: bool = True
) -> "tuple[RunDir, Experiment]":
    """The run directory and the checked experiment of a TARGET; see `targets.open_run`."""
    from configs.loading import targets

    return targets.open_run(
        target, run=options.run, overrides=options.set_ or [], registries=_registries, writes=writes
    )


def open_config(target: str, options: ConfigOptions) -> "Experiment":
    """The checked experiment of a TARGET, without its run directory."""
    from configs.loading import targets

    return targets.open_config(target, overrides=options.set_ or [], registries=_registries)


def refuse(target: str, why: str, *groups: Any, **options: Any) -> None:
    """Raise UserError for an option that would have no effect on this kind of target.

    Args:
        groups: instances of option classes.
    """
    for group in groups:
        options |= vars(group)
    for name, value in options.items():
        if value is not None and value != []:
            option = name.strip("_").replace("_", "-")
            raise UserError(f"--{option} has no effect on {target}: {why}")
