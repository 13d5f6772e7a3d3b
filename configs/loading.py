"""From a YAML file to an `Experiment`, checked whole before the first step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from configs.errors import UserError
from configs.registry import Registry, nearest
from configs.schema import (
    TEACHERS,
    Choice,
    Experiment,
    Strict,
    StudentConfig,
    kind_of_teacher,
)


def load_experiment(
    path: Path, registries: Mapping[str, Registry], overrides: list[str] | None = None
) -> Experiment:
    """The experiment of a YAML file, with every name and option checked and every default set.

    Args:
        registries: by the kind of name they hold: source, backbone, strategy, loss, method,
            recipe, device, corruption.
        overrides: "key.path=value", applied on top of the file.

    Raises:
        UserError: the file cannot be read, or a key, name, option or value does not fit.
    """
    raw = _read_yaml(path)
    for override in overrides or []:
        if "=" not in override:
            raise UserError(f"--set {override}: expected key.path=value, as in student.epochs=5.")
    try:
        merged = OmegaConf.merge(
            _with_named_choices(raw), OmegaConf.from_dotlist(list(overrides or []))
        )
        values = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path} with --set {overrides}: {error}") from None
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(path, error)) from None
    return _check_choices(experiment, registries)


def _read_yaml(path: Path) -> Any:
    try:
        raw = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Expected a config file.") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not a YAML file that can be read: {error}") from None
    if not OmegaConf.is_dict(raw):
        raise UserError(f"{path} holds no keys and values. See configs/quickstart.yaml for one.")
    return raw


def _with_named_choices(raw: Any) -> Any:
    """Every single choice as a mapping with a name, so that --set can change one option of it."""
    values = OmegaConf.to_container(raw)
    assert isinstance(values, dict)
    for section in ("teacher", "student"):
        some = values.get(section)
        if not isinstance(some, dict):
            continue
        model = TEACHERS[kind_of_teacher(some)] if section == "teacher" else StudentConfig
        for key, field in model.model_fields.items():
            if field.annotation is not Choice:
                continue
            default = {} if field.is_required() else {"name": field.default.name}
            given = some.get(key, {})
            if isinstance(given, str):
                some[key] = {"name": given}
            elif isinstance(given, dict) and (given or default):
                some[key] = {**default, **given}
    return OmegaConf.create(values)


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        where = [part for part in place if part not in TEACHERS]
        if problem["type"] == "extra_forbidden":
            known = _fields_at(place[:-1])
            lines.append(f"unknown key {'.'.join(where)}.{nearest(where[-1], known)}")
        elif problem["type"] == "missing":
            lines.append(f"{'.'.join(where)} is missing.")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{'.'.join(where)} is {problem['input']!r}: {message}.")
    return f"{path}: " + "\n  ".join(dict.fromkeys(lines))


def _fields_at(where: list[str]) -> list[str]:
    model: Any = Experiment
    for part in where:
        if part in TEACHERS:
            model = TEACHERS[part]
        elif part.isdigit():
            (model,) = get_args(model)
        else:
            model = model.model_fields[part].annotation
    return list(model.model_fields)


def _check_choices(experiment: Experiment, registries: Mapping[str, Registry]) -> Experiment:
    """The same experiment with all options of all choices written out."""

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
        twice = {label for label in labels if labels.count(label) > 1}
        if twice:
            raise UserError(f"{where} names {', '.join(sorted(twice))} twice. Keep one.")
        return choices

    compress, evaluate = experiment.compress, experiment.evaluate
    registries["source"][experiment.data.source]
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
            "evaluate": evaluate.model_copy(
                update={"devices": checked_list("device", "evaluate.devices", evaluate.devices)}
            ),
        }
    )
