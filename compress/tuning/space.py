"""What a search may change: settings by their key, and what Optuna chooses among."""

import json
from collections.abc import Mapping
from typing import Any

from configs.errors import UserError
from configs.loading.experiment import with_settings
from configs.registry import Registry
from configs.resume import Facts
from configs.schema import Experiment
from configs.schema.tune import Range, Values

SECTIONS = ("student", "soft_labels", "views", "compress")

Settings = Facts
"""Values by key, such as {"student.soft_weight": 0.7}."""


def check_space(experiment: Experiment, registries: Mapping[str, Registry]) -> None:
    """Try every end of a range and every value of a list, one at a time.

    Raises:
        UserError: a key may not be searched, is unknown, or has a value that does not fit.
    """
    for key, values in experiment.tune.space.items():
        if key.split(".")[0] not in SECTIONS:
            raise UserError(
                f"tune.space names {key}. All trials share the photos, the teacher and the limits. "
                f"Expected keys of {', '.join(SECTIONS)}."
            )
        if key.startswith("compress.budget"):
            raise UserError(f"tune.space names {key}: the limits stay the same in all trials.")
        for value in [values.low, values.high] if isinstance(values, Range) else values:
            settings = {key: int(value) if _is_whole(values) else value}
            try:
                with_settings(experiment, registries, settings)
            except UserError as error:
                raise UserError(f"tune.space: {error}") from None


def suggest(trial: Any, space: Mapping[str, Values]) -> Settings:
    """Let an Optuna trial choose its settings."""
    for key, values in space.items():
        if not isinstance(values, Range):
            trial.suggest_categorical(key, _texts(values))
        elif _is_whole(values):
            trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            trial.suggest_float(key, values.low, values.high, log=values.log)
    return settings_of(trial.params, space)


def settings_of(params: Mapping[str, Any], space: Mapping[str, Values]) -> Settings:
    """The settings that Optuna's parameters stand for."""
    return {
        key: params[key] if isinstance(values, Range) else json.loads(params[key])
        for key, values in space.items()
    }


def present_values(experiment: Experiment) -> Settings:
    """Those of the config's own values that lie in the space, as Optuna's parameters."""
    params: Settings = {}
    for key, values in experiment.tune.space.items():
        value = value_at(experiment, key)
        if not isinstance(values, Range):
            if (text := json.dumps(value)) in _texts(values):
                params[key] = text
        elif isinstance(value, int | float) and values.low <= value <= values.high:
            params[key] = value
    return params


def value_at(experiment: Experiment, key: str) -> Any:
    """The value of a setting, as JSON values; None where there is none."""
    value: Any = experiment.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _texts(values: list[Any]) -> list[str]:
    # Optuna chooses among plain values only, not among lists.
    return [json.dumps(value) for value in values]


def _is_whole(values: Values) -> bool:
    return isinstance(values, Range) and {type(values.low), type(values.high)} == {int}
