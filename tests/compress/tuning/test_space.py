"""What a search may change, and what Optuna makes of it."""

from typing import Any

import optuna
import pytest

from compress.config_choices import REGISTRIES
from compress.tuning.space import check_space, present_values, suggest
from configs.errors import UserError
from configs.loading.experiment import load_experiment
from configs.loading.targets import CONFIGS
from configs.schema import Experiment


def experiment_with(space: dict[str, Any]) -> Experiment:
    smoke = load_experiment(CONFIGS / "smoke.yaml", REGISTRIES)
    return Experiment.model_validate({**smoke.model_dump(), "tune": {"space": space}})


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"teacher.epochs": [1, 2]}, "All trials share the photos, the teacher"),
        ({"data.validation": [0.1]}, "Expected keys of student, soft_labels, views, compress"),
        ({"compress.budget.max_drop": [0.1]}, "the limits stay the same in all trials"),
        ({"student.epoch": [1, 2]}, "Did you mean epochs?"),
        ({"student.loss.temperatur": [1, 2]}, "Did you mean temperature?"),
        ({"student.epochs.first": [1, 2]}, "epochs holds no keys"),
        ({"student.soft_weight": {"low": 0.5, "high": 2.0}}, "less than or equal to 1"),
        ({"student.backbone.name": ["efficientnet_bo"]}, "unknown backbone"),
        ({"compress.methods": [[{"name": "chanels"}]]}, "Did you mean channels?"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_the_first_trial(
    space: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=r"tune\.space") as error:
        check_space(experiment_with(space), REGISTRIES)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"low": 2, "high": 1}, "low must be below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "log needs a low above 0"),
        ([], "at least 1 item"),
    ],
)
def test_a_range_without_values_is_refused(values: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        experiment_with({"student.epochs": values})


def test_optuna_chooses_from_ranges_and_lists() -> None:
    space = experiment_with(
        {
            "student.epochs": {"low": 2, "high": 4},
            "student.soft_weight": {"low": 0.25, "high": 0.75},
            "compress.methods": [[], [{"name": "channels", "keep": 0.5}]],
        }
    ).tune.space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    chosen = [suggest(study.ask(), space) for _ in range(40)]
    assert {settings["student.epochs"] for settings in chosen} == {2, 3, 4}
    assert all(type(settings["student.epochs"]) is int for settings in chosen)
    assert all(0.25 <= settings["student.soft_weight"] <= 0.75 for settings in chosen)
    methods = [settings["compress.methods"] for settings in chosen]
    assert [] in methods
    assert [{"name": "channels", "keep": 0.5}] in methods


def test_the_search_begins_with_the_values_of_the_config() -> None:
    experiment = experiment_with(
        {
            "student.soft_weight": {"low": 0.3, "high": 1.0},
            "student.epochs": [5, 2],
            "student.learning_rate": {"low": 1e-4, "high": 1e-2},  # the config says auto
            "views.crop": [[0.8, 1.0], [0.5, 1.0]],
        }
    )
    assert present_values(experiment) == {
        "student.soft_weight": 0.5,
        "student.epochs": "2",
        "views.crop": "[0.8, 1.0]",
    }
