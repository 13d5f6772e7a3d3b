"""What commands take in common, and how a TARGET becomes a run."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.errors import UserError

if TYPE_CHECKING:
    from configs.run_dir import RunDir
    from configs.schema import BudgetConfig, Experiment

CONFIGS = Path(__file__).parent.parent / "configs"

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


def registries() -> dict[str, Any]:
    """Every registry a config chooses from; loads TensorFlow."""
    with _silent_stderr():
        import tensorflow

    # It warns of retracing as one model after the other predicts.
    tensorflow.get_logger().setLevel(logging.ERROR)

    from compress.methods import METHODS
    from compress.recipes import RECIPES
    from distill.backbones import BACKBONES
    from distill.data.sources import SOURCES
    from distill.losses import LOSSES
    from distill.training.strategies import STRATEGIES
    from eval.devices.registry import DEVICES
    from eval.scoring.corruptions import CORRUPTIONS

    return {
        "source": SOURCES,
        "backbone": BACKBONES,
        "strategy": STRATEGIES,
        "loss": LOSSES,
        "method": METHODS,
        "recipe": RECIPES,
        "device": DEVICES,
        "corruption": CORRUPTIONS,
    }


def open_run(
    target: str, run: Path | None, overrides: list[str] | None
) -> "tuple[RunDir, Experiment]":
    """The run directory and the checked experiment of a TARGET.

    Raises:
        UserError: there is no such target, its config is wrong, or the run directory is taken.
    """
    config, name, _ = _resolve(target)
    from configs.artifacts import write_text
    from configs.run_dir import RunDir
    from configs.schema import to_yaml

    experiment = _with_absolute_paths(open_config(target, overrides))
    here = config.parent if name is None else Path("runs") / name
    directory = RunDir(run or here)
    _check_free(directory, experiment)
    if not directory.experiment.exists():  # else the first step taken says what holds now
        write_text(directory.experiment, to_yaml(experiment))
    _log_to(directory.path / "log.jsonl")
    return directory, experiment


def open_config(target: str, overrides: list[str] | None) -> "Experiment":
    """The checked experiment of a TARGET, without its run directory."""
    config, _, extra = _resolve(target)
    from configs.loading import load_experiment

    experiment = load_experiment(config, registries(), [*extra, *(overrides or [])])
    from eval.devices.registry import check_labels

    check_labels((device.name, device.options) for device in experiment.evaluate.devices)
    return experiment


def _with_absolute_paths(experiment: "Experiment") -> "Experiment":
    """So that the run directory means the same from wherever it is used."""
    from configs.schema import GivenTeacherConfig

    paths = {k: v.resolve() for k, v in experiment.data if isinstance(v, Path)}
    data, teacher = experiment.data.model_copy(update=paths), experiment.teacher
    if isinstance(teacher, GivenTeacherConfig):
        files = [file.model_copy(update={"path": file.path.resolve()}) for file in teacher.files]
        teacher = teacher.model_copy(update={"files": files})
    return experiment.model_copy(update={"data": data, "teacher": teacher})


def _resolve(target: str) -> tuple[Path, str | None, list[str]]:
    """The config of a target, the run's default name (None: beside the config), overrides."""
    path = Path(target)
    bundled = CONFIGS / f"{target}.yaml"
    if path.is_dir() and (path / "experiment.yaml").exists():
        return path / "experiment.yaml", None, []
    if path.is_dir():
        name = path.resolve().name or "photos"
        return CONFIGS / "photos.yaml", name, [f"data.path={_quoted(path)}", "data.source=folder"]
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return path, path.stem, []
    if bundled.is_file():
        return bundled, target, []
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    what = "is no config" if path.exists() else "does not exist"
    raise UserError(
        f"{target} {what}. Expected a config file (.yaml), a folder of photos, a run directory, "
        f"or the name of a bundled config: {known}."
    )


def _quoted(path: Path) -> str:
    """A path as a YAML string, so that a folder called 2024 or 'a: b' stays a path."""
    return json.dumps(str(path))


def _check_free(run: "RunDir", experiment: "Experiment") -> None:
    from omegaconf import OmegaConf

    if run.path.is_file():
        raise UserError(f"{run} is a file. Name a folder for the run with --run.")
    if not run.experiment.exists():
        # What a killed run left begins with a dot.
        if run.path.is_dir() and any(p.name[0] != "." for p in run.path.iterdir()):
            raise UserError(
                f"{run} holds other files and no run. Name a new folder for the run with --run."
            )
        return
    try:
        held: Any = OmegaConf.to_container(OmegaConf.load(run.experiment))
        before = held["data"]
    except Exception:  # whatever a damaged YAML file may raise
        raise UserError(f"{run.experiment} is damaged. Delete it, and give a config.") from None
    if not run.photos_manifest.with_suffix(".json").exists():
        return  # it never came to hold photos: a path that was mistyped, say
    now = experiment.data.model_dump(mode="json")
    if (before.get("source"), before.get("path")) != (now["source"], now["path"]):
        raise UserError(
            f"{run} holds a run on other photos ({before.get('path') or before.get('source')}, "
            f"not {now['path'] or now['source']}). Name another run directory with --run."
        )


def _log_to(path: Path) -> None:
    class JsonLines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            line = {
                "time": self.formatTime(record),
                "level": record.levelname,
                "message": record.getMessage(),
            }
            return json.dumps(line)

    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonLines())
    logging.getLogger("potstill").addHandler(handler)


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
