"""From a TARGET on the command line to a run directory and its checked experiment."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from configs.artifacts import write_text
from configs.errors import UserError
from configs.loading.experiment import load_experiment, to_yaml
from configs.loading.yaml_text import read_yaml
from configs.registry import Registry
from configs.run_dir import RunDir
from configs.schema import Experiment

CONFIGS = Path(__file__).parent.parent

Registries = Callable[[], Mapping[str, Registry]]
"""Returns every registry that a config chooses from. Called only after the target was found,
because loading all registries takes seconds."""


def open_run(
    target: str, *, run: Path | None, overrides: list[str], registries: Registries
) -> tuple[RunDir, Experiment]:
    """The run directory and the checked experiment of a TARGET.

    Args:
        run: the run directory; None for the default of the target.
        overrides: "key.path=value", applied on top of the config.

    Raises:
        UserError: there is no such target, its config is wrong, or the run directory is taken.
    """
    config, name, _ = _resolve(target)
    experiment = open_config(target, overrides=overrides, registries=registries)
    default = config.parent if name is None else Path("runs") / name
    directory = RunDir(run or default)
    _check_free(directory, experiment)
    if not directory.experiment.exists():  # an existing one changes when the first step starts
        write_text(directory.experiment, to_yaml(experiment))
    _log_to(directory.path / "log.jsonl")
    return directory, experiment


def open_config(target: str, *, overrides: list[str], registries: Registries) -> Experiment:
    """The checked experiment of a TARGET, without its run directory."""
    config, _, photos = _resolve(target)
    return load_experiment(config, registries(), overrides, photos=photos)


def _resolve(target: str) -> tuple[Path, str | None, Path | None]:
    """The config of a target, the run's default name (None: beside the config), its photos."""
    path = Path(target)
    bundled = CONFIGS / f"{target}.yaml"
    if path.is_dir() and (path / "experiment.yaml").exists():
        return path / "experiment.yaml", None, None
    if path.is_dir():
        name = path.resolve().name or "photos"
        return CONFIGS / "photos.yaml", name, path
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return path, path.stem, None
    if bundled.is_file():
        return bundled, target, None
    names = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    problem = "is no config" if path.exists() else "does not exist"
    raise UserError(
        f"{target} {problem}. Expected a config file (.yaml), a folder of photos, a run directory, "
        f"or the name of a bundled config: {names}."
    )


def _check_free(run: RunDir, experiment: Experiment) -> None:
    """Raise UserError if the run directory holds something else than a run on these photos."""
    if run.path.is_file():
        raise UserError(f"{run} is a file. Name a folder for the run with --run.")
    if not run.experiment.exists():
        # A killed run may have left hidden files.
        if run.path.is_dir() and any(p.name[0] != "." for p in run.path.iterdir()):
            raise UserError(
                f"{run} holds other files and no run. Name a new folder for the run with --run."
            )
        return
    try:
        before = dict(read_yaml(run.experiment)["data"])
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{run.experiment} is damaged. Delete it, and give a config.") from None
    if not run.photos_manifest.with_suffix(".json").exists():
        return  # no photos were scanned yet, for example because their path was mistyped
    now = experiment.data.model_dump(mode="json")
    if (before.get("source"), before.get("path")) != (now["source"], now["path"]):
        raise UserError(
            f"{run} holds a run on other photos ({before.get('path') or before.get('source')}, "
            f"not {now['path'] or now['source']}). Name another run directory with --run."
        )


class _JsonLines(logging.Formatter):
    """One JSON object for each log record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        return json.dumps(line)


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonLines())
    logging.getLogger("potstill").addHandler(handler)
