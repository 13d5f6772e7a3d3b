"""Which trials a search makes, when it is killed in the middle of some."""

from pathlib import Path
from typing import Any

import optuna

from compress.config_choices import REGISTRIES
from compress.tuning.space import suggest
from compress.tuning.study import FILE, _next_trial, _open_study
from configs.loading.experiment import load_experiment
from configs.loading.targets import CONFIGS
from configs.run_dir import RunDir
from configs.schema import Experiment

SPACE: dict[str, Any] = {
    "student.soft_weight": {"low": 0.25, "high": 0.75},
    "student.loss.temperature": {"low": 1.0, "high": 8.0, "log": True},
    "views.crop": [[0.5, 1.0], [0.8, 1.0]],
}


def experiment() -> Experiment:
    smoke = load_experiment(CONFIGS / "smoke.yaml", REGISTRIES)
    tune = {"trials": 6, "space": SPACE}
    return Experiment.model_validate({**smoke.model_dump(), "tune": tune})


def searched(folder: Path, *, kills: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """The settings of the finished trials of a search.

    Args:
        kills: where a process is killed, by the number of trials that are begun before.
    """
    run, kills = RunDir(folder), dict(kills or {})
    (folder / "tune").mkdir(parents=True)
    settings, number = [], 0
    study = _open_study(optuna, run, experiment())
    while True:
        # A trial whose block ends without an answer is one whose process was killed.
        with _next_trial(optuna, study, run, experiment()) as trial:
            if trial is None:
                return settings
            kill, number = kills.get(number), number + 1
            if kill == "between two settings":
                trial.suggest_float("student.soft_weight", 0.25, 0.75)
            if kill == "while it trains":
                suggest(trial, experiment().tune.space)
            if kill is not None:
                study = _open_study(optuna, run, experiment())
                continue
            settings.append(suggest(trial, experiment().tune.space))
            trial.set_user_attr(FILE, {"excess": 0.0})
            study.tell(trial, settings[-1]["student.soft_weight"])


def test_a_search_that_is_killed_tries_what_the_undisturbed_one_tries(tmp_path: Path) -> None:
    undisturbed = searched(tmp_path / "undisturbed")
    assert len(undisturbed) == 6
    kills = {
        0: "before its settings",
        2: "between two settings",
        4: "while it trains",
        5: "while it trains",
    }
    assert searched(tmp_path / "killed", kills=kills) == undisturbed


def test_an_entry_that_a_full_disk_cut_off_is_dropped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "tune").mkdir()
    study = _open_study(optuna, run, experiment())
    study.tell(study.ask(), 0.5)
    with open(tmp_path / "tune" / "study.log", "a") as file:
        file.write('{"op_code":4,"worker')
    study = _open_study(optuna, run, experiment())
    study.tell(study.ask(), 0.75)
    values = [trial.value for trial in _open_study(optuna, run, experiment()).trials]
    assert values == [0.5, 0.75]


def test_a_lock_of_a_killed_process_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "tune").mkdir()
    # What Optuna's own lock leaves behind.
    (tmp_path / "tune" / "study.log.lock").symlink_to("run/tune/study.log")
    study = _open_study(optuna, RunDir(tmp_path), experiment())
    study.tell(study.ask(), 0.5)
    assert study.trials[0].value == 0.5
