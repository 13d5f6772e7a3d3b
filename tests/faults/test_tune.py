"""A search that is killed loses no finished trial, keeps its limit, and ends with a config."""

import json
import time
from pathlib import Path

import optuna
import pytest
import yaml

from faults.harness import line_times, run_to_end, started, write_photos

pytestmark = pytest.mark.slow

CONFIG = """
data: {path: photos}
teacher: {backbone: {name: tiny, width: 16}, image_size: 32, epochs: 2}
soft_labels: {num_views: 2}
student: {backbone: {name: tiny, width: 8}, image_size: 32, epochs: 3, control: false}
compress: {recipes: [tflite.float32, tflite.dynamic], budget: {max_bytes: 20000}}
evaluate: {num_runs: 30, num_warmup: 3}
tune:
  trials: 12
  space:
    student.backbone.width: [4, 8, 24]
    student.soft_weight: {low: 0.3, high: 1.0}
    student.loss.temperature: {low: 1.0, high: 8.0, log: true}
    views.crop: [[0.5, 1.0], [0.8, 1.0]]
"""
WORDS = "distill tune config.yaml --run run"


def finished_trials(folder: Path) -> dict[int, float]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "run/tune/study.log"))
    study = optuna.load_study(study_name="tune", storage=optuna.storages.JournalStorage(backend))
    return {t.number: t.value for t in study.trials if t.state.name == "COMPLETE"}


def kill_in_trial(number: int, folder: Path) -> None:
    """Kill the search while it trains the student of a trial."""
    with started(WORDS, cwd=folder) as (process, errors):
        begun = False
        for line, _ in line_times(process, errors):
            begun = begun or (line.startswith("trial ") and f"({number} of 12" in line)
            if begun and line.startswith("student: working"):
                break
        time.sleep(0.5)
        assert process.poll() is None


def test_a_search_that_is_killed_twice_loses_no_finished_trial(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "config.yaml").write_text(CONFIG)
    kill_in_trial(3, tmp_path)
    first = finished_trials(tmp_path)
    kill_in_trial(7, tmp_path)
    second = finished_trials(tmp_path)
    run_to_end(WORDS, cwd=tmp_path)
    third = finished_trials(tmp_path)
    assert len(first) == 2
    assert len(second) == 6
    assert len(third) == 12
    assert first.items() <= second.items() <= third.items()

    tune = tmp_path / "run" / "tune"
    rows = (tune / "trials.csv").read_text().splitlines()
    assert len(rows) == 13
    (chosen,) = [row for row in rows if row.endswith(",1")]
    size = int(chosen.split(",")[-3])
    assert size <= 20000
    assert any("20,000 allowed" in row for row in rows[1:]), "no trial was too large"
    # All trials share one teacher; each set of views is labelled once.
    assert len(list((tmp_path / "run" / "soft_labels").glob("*.npy"))) <= 2
    assert yaml.safe_load((tune / "best.yaml").read_text())["teacher"]["files"]
    run_to_end(f"distill run {tune / 'best.yaml'} --run best", cwd=tmp_path)
    report = json.loads((tmp_path / "best" / "report.json").read_text())
    assert report["models"][1]["name"] == "student"


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "config.yaml").write_text(CONFIG.replace("trials: 12", "trials: 6"))
    with started(WORDS, cwd=tmp_path) as (other, _):
        run_to_end(WORDS, cwd=tmp_path)
        other.wait(300)
        assert other.returncode == 0
    trials = finished_trials(tmp_path)
    assert len(trials) == 6
    assert sorted(trials) == list(range(6))
