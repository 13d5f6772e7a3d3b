"""From a TARGET on the command line to a run directory and its checked experiment."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from configs.artifacts import ending, write_text
from configs.errors import UserError
from configs.loading.experiment import load_experiment, to_yaml
from configs.loading.paths import is_utf8
from configs.loading.yaml_text import read_yaml
from configs.registry import Registry
from configs.remote.storage import is_url
from configs.run_dir import RunDir
from configs.schema import Experiment

CONFIGS = Path(__file__).parent.parent

Registries = Callable[[], Mapping[str, Registry]]
"""Returns every registry that a config chooses from. Called only after the target was found,
because loading all registries takes seconds."""


@dataclass(frozen=True)
class _Target:
    """What a TARGET stands for.

    Attributes:
        config: the YAML file to read.
        run: the run directory, unless the user names another one.
        photos: the folder or file of photos that the target is, if it is one, or its URL.
        source: the source of photos that the target names, as in `tfds:cats_vs_dogs`.
    """

    config: Path
    run: Path
    photos: Path | str | None = None
    source: str = "folder"


def open_run(
    target: str,
    *,
    run: Path | None,
    overrides: list[str],
    registries: Registries,
    writes: bool = True,
) -> tuple[RunDir, Experiment]:
    """The run directory and the checked experiment of a TARGET.

    Args:
        run: the run directory; None for the default of the target.
        overrides: "key.path=value" texts that replace values of the config.
        writes: whether this process writes config and log into the directory; of several, one does.

    Raises:
        UserError: there is no such target, its config is wrong, or the run directory is taken.
    """
    directory = RunDir(run or _resolve(target, registries).run)
    if not is_utf8(directory.path):
        raise UserError(f"the run directory {str(directory)!r} is not valid UTF-8. Rename it.")
    experiment = open_config(target, overrides=overrides, registries=registries)
    if not writes:
        return directory, experiment
    _check_free(directory, experiment)
    if not directory.experiment.exists():  # an existing one changes when the first step starts
        write_text(directory.experiment, to_yaml(experiment))
    _log_to(directory.path / "log.jsonl")
    return directory, experiment


def open_config(target: str, *, overrides: list[str], registries: Registries) -> Experiment:
    """The checked experiment of a TARGET, without its run directory."""
    resolved = _resolve(target, registries)
    return load_experiment(
        resolved.config, registries(), overrides, photos=resolved.photos, source=resolved.source
    )


def _resolve(target: str, registries: Registries) -> _Target:
    path = Path(target)
    bundled = CONFIGS / f"{target}.yaml"
    if path.is_dir() and (path / "experiment.yaml").exists():
        return _Target(path / "experiment.yaml", path)
    if path.is_dir():
        name = path.resolve().name or "photos"
        return _Target(CONFIGS / "photos.yaml", Path("runs") / name, photos=path)
    if path.is_file() and ending(path) in (".yaml", ".yml"):
        return _Target(path, Path("runs") / path.stem)
    if bundled.is_file():
        return _Target(bundled, Path("runs") / target)
    if is_url(target):
        name = PurePosixPath(target).name.partition(".")[0] or "photos"
        return _Target(CONFIGS / "photos.yaml", Path("runs") / name, photos=target)
    kind, colon, name = target.partition(":")
    sources = registries().get("source") if colon or path.is_file() else None
    if sources is not None and path.is_file() and sources.name_by_ending(path.name):
        stem = path.name.partition(".")[0] or "photos"
        return _Target(CONFIGS / "photos.yaml", Path("runs") / stem, photos=path)
    if sources is not None and name and kind in sources.names() and sources.facts(kind):
        run = Path("runs") / (Path(name).name or kind)
        return _Target(CONFIGS / "photos.yaml", run, source=target)
    names = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    problem = "is not a config" if path.exists() else "does not exist"
    raise UserError(
        f"{target} {problem}. Expected a config file (.yaml), a folder of photos or a file with "
        "them (.zip, .csv, .parquet, .npz, COCO's .json), their URL (s3://bucket/photos), hf:NAME "
        f"or tfds:NAME, a run directory, or the name of a bundled config: {names}."
    )


def _check_free(run: RunDir, experiment: Experiment) -> None:
    """Raise UserError if the run directory holds anything but a run on these photos."""
    if run.path.is_file():
        raise UserError(f"{run} is a file. Name a folder for the run with --run.")
    if not run.experiment.exists():
        # A killed run may have left hidden files. Another process may have started the same run
        # since the line above, so its first file is looked for again.
        if _holds_files(run.path) and not run.experiment.exists():
            raise UserError(
                f"{run} holds files and no run. Name a new folder for the run with --run."
            )
        return
    try:
        before = dict(read_yaml(run.experiment)["data"])
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(
            f"{run.experiment} is damaged. Delete it and name a config file as TARGET."
        ) from None
    if not run.photos_manifest.with_suffix(".json").exists():
        return  # no photos were scanned yet, for example because their path was mistyped
    now = experiment.data.model_dump(mode="json")
    if (before.get("source"), before.get("path")) != (now["source"], now["path"]):
        raise UserError(
            f"{run} holds a run on other photos ({before.get('path') or before.get('source')}, "
            f"not {now['path'] or now['source']}). Name another run directory with --run."
        )


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


class _JsonLines(logging.Formatter):
    """One JSON object for each log record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        return json.dumps(line)


class _LogFile(logging.FileHandler):
    """A log that says nothing when its disk is full: the step that fails says it."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _log_to(path: Path) -> None:
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(_JsonLines())
    logging.getLogger("potstill").addHandler(handler)
