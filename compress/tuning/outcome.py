"""What a search ends with: a table, a page with a plot, and the best config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.tuning.space import settings_of
from compress.tuning.study import finished_trials, shown_number
from configs.artifacts import write_text
from configs.contract import TeacherFile
from configs.loading.experiment import to_yaml, with_settings
from configs.registry import Registry
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.training import GivenTeacherConfig, TeacherConfig
from distill.data.manifest import load_examples
from eval.report.trials import TrialRow, trials_csv, trials_page


@dataclass(frozen=True)
class TuneOutcome:
    """The result of a search.

    Attributes:
        rows: the finished trials in their order.
        sentence: which trial is the best, and how far to trust it.
        config: the best config.
        page: the page with plot and table.
    """

    rows: list[TrialRow]
    sentence: str
    config: Path
    page: Path


def write_outcome(
    run: RunDir, experiment: Experiment, registries: Mapping[str, Registry], study: Any
) -> TuneOutcome:
    """Write tune/trials.csv, tune/trials.html and tune/best.yaml of a study."""
    rows = trial_rows(study, experiment, num_photos=len(load_examples(run, "validation")))
    best = next(row for row in rows if row.chosen)
    folder = run.path / "tune"
    outcome = TuneOutcome(rows, _sentence(best), folder / "best.yaml", folder / "trials.html")
    write_text(folder / "trials.csv", trials_csv(rows))
    page = trials_page(rows, title=run.path.name, sentence=outcome.sentence)
    write_text(outcome.page, page)
    write_text(outcome.config, to_yaml(best_experiment(run, experiment, registries, best)))
    return outcome


def trial_rows(study: Any, experiment: Experiment, *, num_photos: int) -> list[TrialRow]:
    """The finished trials, the best one marked: the most accurate that holds the limits.

    Where none holds them, it is the nearest.
    """
    finished = finished_trials(study)
    best, _ = min(finished, key=lambda pair: (pair[1].excess, -pair[1].val_top1, pair[1].p50_ms))
    return [
        TrialRow(
            number=shown_number(trial),
            settings=settings_of(trial.params, experiment.tune.space),
            file=file.name,
            num_right=round(file.val_top1 * num_photos),
            num_photos=num_photos,
            p50_ms=file.p50_ms,
            file_bytes=file.file_bytes,
            why=file.why,
            chosen=trial.number == best.number,
        )
        for trial, file in finished
    ]


def best_experiment(
    run: RunDir, experiment: Experiment, registries: Mapping[str, Registry], best: TrialRow
) -> Experiment:
    """The config with the settings of the best trial.

    All trials shared one teacher. With other views the config would train another one, so it
    names the file of this one.
    """
    changed = with_settings(experiment, registries, best.settings)
    views_differ = any(key.startswith("views.") for key in best.settings)
    if not views_differ or not isinstance(experiment.teacher, TeacherConfig):
        return changed
    file = TeacherFile(path=run.model("teacher"), image_size=experiment.teacher.image_size)
    return changed.model_copy(update={"teacher": GivenTeacherConfig(files=[file])})


def _sentence(best: TrialRow) -> str:
    text = (
        f"Trial {best.number} is the best: {best.file} is right on {best.num_right} of "
        f"{best.num_photos} validation photos ({100 * best.top1:.1f} %) and takes "
        f"{best.p50_ms:.2f} ms. "
    )
    if best.why:
        text += f"No trial holds the limits; this one is the nearest ({best.why}). "
    return text + (
        "These photos chose it, so the figure flatters it. A run of its config measures it on the "
        "test photos."
    )
