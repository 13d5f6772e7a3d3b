"""Read a YAML file into an `Experiment`, checked before the first step, and write it back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from configs.errors import UserError
from configs.loading.yaml_text import dump_yaml, parse_yaml, read_yaml
from configs.records import Strict
from configs.registry import Registry, nearest
from configs.schema import Experiment, holds_path
from configs.schema.choice import Choice
from configs.schema.training import TEACHERS, StudentConfig, kind_of_teacher

Values = dict[str, Any]
"""The nested keys and values of a config before they are checked."""


def load_experiment(
    path: Path,
    registries: Mapping[str, Registry],
    overrides: list[str] | None = None,
    *,
    photos: Path | str | None = None,
    source: str = "folder",
) -> Experiment:
    """The experiment that a YAML file describes, checked and with every default filled in.

    Args:
        registries: by the kind of name they hold: source, backbone, strategy, loss,
            feature_loss, schedule, optimizer, method, recipe, device, corruption, tracker.
        overrides: "key.path=value" texts. They replace values of the file. The value is YAML,
            except for a path, which is taken as it stands.
        photos: a folder or file of photos, or its URL, that replaces the source of the file.
        source: what replaces it; folder with `photos` only.

    Raises:
        UserError: the file cannot be read, or a key, name, option or value does not fit.
    """
    values = _read_config(path)
    _name_choices(values)
    if photos is not None or source != "folder":
        place = None if photos is None else str(photos)
        _merge(values, {"data": {"source": source, "path": place}})
    for override in overrides or []:
        _merge(values, _parse_override(override))
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(path, error)) from None
    return _check_choices(experiment, registries)


def with_settings(
    experiment: Experiment, registries: Mapping[str, Registry], settings: Mapping[str, Any]
) -> Experiment:
    """The experiment with other values at some keys, checked like a config.

    Args:
        settings: values by key, such as {"student.soft_weight": 0.7}.

    Raises:
        UserError: a key is unknown, or a value does not fit.
    """
    values = experiment.model_dump(mode="json")
    for key, value in settings.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            if not isinstance(section.get(part), dict):
                raise UserError(f"unknown key {key}: {part} holds no keys.")
            section = section[part]
        section[last] = value
    try:
        changed = Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(None, error)) from None
    return _check_choices(changed, registries)


def to_yaml(experiment: Experiment) -> str:
    """The experiment as YAML with every default written out; `load_experiment` reads it back."""
    return dump_yaml(experiment.model_dump(mode="json"))


def _read_config(path: Path) -> Values:
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Expected a config file.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no keys and values. See configs/quickstart.yaml for one.")
    return values


def _name_choices(values: Values) -> None:
    """Write each single choice as a mapping with a name, so that --set can change one option."""
    for section in ("teacher", "student"):
        settings = values.get(section)
        if not isinstance(settings, dict):
            continue
        model = TEACHERS[kind_of_teacher(settings)] if section == "teacher" else StudentConfig
        for key, field in model.model_fields.items():
            if Choice not in (field.annotation, *get_args(field.annotation)):
                continue
            has_default = isinstance(field.default, Choice)
            default = {"name": field.default.name} if has_default else {}
            choice = settings.get(key, {})
            if isinstance(choice, str):
                settings[key] = {"name": choice}
            elif isinstance(choice, dict) and (choice or default):
                settings[key] = {**default, **choice}


def _parse_override(override: str) -> Values:
    """The nested values of one --set: {"student": {"epochs": 5}} for "student.epochs=5"."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: expected key.path=value, as in student.epochs=5.")
    if holds_path(key):
        value: Any = None if text in ("", "null") else text
    else:
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise UserError(f"--set {override}: {error}") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(values: Values, changes: Values) -> None:
    """Put `changes` into `values`, mapping by mapping."""
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            _merge(values[key], change)
        else:
            values[key] = change


def _explain(path: Path | None, error: ValidationError) -> str:
    """One line for each problem that pydantic reports, of a file if there is one."""
    lines = []
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]] or [""]  # of the config as a whole
        *parents, last = place
        where = [p for p in parents if not _is_kind(p)]
        if problem["type"] in ("extra_forbidden", "missing") or not _is_kind(last):
            where.append(last)
        if problem["type"] == "extra_forbidden":
            hint = nearest(last, _fields_at(parents))
            lines.append(f"unknown key {'.'.join(where)}.{hint}")
        elif problem["type"] == "missing":
            lines.append(f"{'.'.join(where)} is missing.")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{'.'.join(where)} is {problem['input']!r}: {message}.")
    return (f"{path}: " if path else "") + "\n  ".join(dict.fromkeys(lines))


def _is_kind(part: str) -> bool:
    """Whether a part of the place of an error is a kind of value, as pydantic writes it."""
    return part in TEACHERS or part.endswith("]")


def _fields_at(where: list[str]) -> list[str]:
    """The names of the settings in one section of a config; none where they are not fixed."""
    model: Any = Experiment
    for part in where:
        fields = getattr(model, "model_fields", {})
        if part in TEACHERS:
            model = TEACHERS[part]
        elif part in fields:
            model = fields[part].annotation
        else:  # the place in a list
            model = next(iter(get_args(model)), None)
    return list(getattr(model, "model_fields", {}))


def _check_choices(experiment: Experiment, registries: Mapping[str, Registry]) -> Experiment:
    """The same experiment with the defaults of every choice filled in."""

    def checked(kind: str, where: str, choice: Choice) -> Choice:
        try:
            options = registries[kind].check(choice.name, choice.options)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return Choice(name=choice.name, options=options)

    def checked_fields(section: str, config: Strict) -> Strict:
        choices = {k: v for k, v in config if isinstance(v, Choice)}
        return config.model_copy(
            update={k: checked(k, f"{section}.{k}", v) for k, v in choices.items()}
        )

    def checked_list(kind: str, where: str, choices: list[Choice]) -> list[Choice]:
        choices = [checked(kind, f"{where}[{i}]", choice) for i, choice in enumerate(choices)]
        labels = [registries[kind].label(choice.name, choice.options) for choice in choices]
        repeated = {label for label in labels if labels.count(label) > 1}
        if repeated:
            raise UserError(f"{where} names {', '.join(sorted(repeated))} twice. Keep one.")
        return choices

    compress, evaluate = experiment.compress, experiment.evaluate
    registries["source"][experiment.data.source.partition(":")[0]]
    checked_list(
        "corruption", "evaluate.corruptions", [Choice(name=name) for name in evaluate.corruptions]
    )
    return experiment.model_copy(
        update={
            "teacher": checked_fields("teacher", experiment.teacher),
            "student": checked_fields("student", experiment.student),
            "compress": compress.model_copy(
                update={
                    "methods": checked_list("method", "compress.methods", compress.methods),
                    "recipes": checked_list("recipe", "compress.recipes", compress.recipes),
                }
            ),
            "trackers": checked_list("tracker", "trackers", experiment.trackers),
            "evaluate": evaluate.model_copy(
                update={"devices": checked_list("device", "evaluate.devices", evaluate.devices)}
            ),
        }
    )
