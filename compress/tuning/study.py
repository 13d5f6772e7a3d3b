"""`distill tune`: trials of a student with other settings, in one process or in several.

Optuna keeps the study in a journal that all processes append to. A process that is killed leaves
its trial running. Whoever comes next sees that nobody holds the trial's lock, and begins a trial
with the same settings. That one lives in the same folder, so its training goes on.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.tuning.space import Settings, check_space, present_values, suggest
from compress.tuning.trial import TrialFile, run_trial, share_steps
from configs.artifacts import write_text
from configs.errors import StepFailed, UserError
from configs.loading.experiment import to_yaml
from configs.records import from_json, to_json
from configs.registry import Registry
from configs.remote.cluster import Cluster
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import open_photo_store

log = logging.getLogger("potstill")

FILE = "file"
"""The attribute of a trial that holds its best file."""
CONTINUES = "continues"
"""The attribute of a trial with the number of the killed trial whose settings it has."""
ERROR = "error"


def run_study(
    run: RunDir,
    experiment: Experiment,
    registries: Mapping[str, Registry],
    cluster: Cluster | None = None,
) -> Any:
    """Run trials until there are as many as the config asks for; returns the Optuna study.

    Args:
        cluster: each of its workers runs trials; None for this process alone.

    Raises:
        UserError: the space does not fit, the study was made with another space, or Optuna is
            missing.
        StepFailed: no trial was finished.
    """
    optuna = _optuna()
    check_space(experiment, registries)
    if cluster is not None:
        run = RunDir(run.path.absolute())  # workers start in folders of their own
    write_text(run.experiment, to_yaml(experiment))
    (run.path / "tune").mkdir(exist_ok=True)
    study = _open_study(optuna, run, experiment)
    with open_photo_store(run, experiment) as photos:
        share_steps(run, experiment, photos, cluster)
        if cluster is None:
            _run_trials(optuna, study, run, experiment, registries, photos)
    if cluster is not None:
        num_tasks = min(cluster.num_workers, experiment.tune.trials)
        worker = TrialWorker(run, experiment, num_tasks)
        wanted = experiment.tune.trials
        for _ in cluster.map(
            worker, range(num_tasks), lambda: f"{_num_done(study)} of {wanted} trials are done"
        ):
            log.info("a worker has no more trials; %d of %d are done", _num_done(study), wanted)
    if not finished_trials(study):
        raise StepFailed("no trial was finished; the log says why each of them failed.")
    return study


@dataclass(frozen=True)
class TrialWorker:
    """The task of a cluster: runs trials until there are enough, beside other workers.

    Attributes:
        num_workers: that run trials at the same time. They share the space for decoded photos, as
            if all were on one machine: the disk of the run is one for all.
    """

    run: RunDir
    experiment: Experiment
    num_workers: int

    def __call__(self, number: int) -> None:
        from compress.config_choices import REGISTRIES

        optuna = _optuna()
        study = _open_study(optuna, self.run, self.experiment)
        with open_photo_store(self.run, self.experiment, num_stores=self.num_workers) as photos:
            _run_trials(optuna, study, self.run, self.experiment, REGISTRIES, photos)


def _run_trials(
    optuna: Any,
    study: Any,
    run: RunDir,
    experiment: Experiment,
    registries: Mapping[str, Registry],
    photos: PhotoStore,
) -> None:
    """Run trials until enough are done, or running in other processes."""
    start, num_before = time.monotonic(), _num_done(study)
    while True:
        with _next_trial(optuna, study, run, experiment) as trial:
            if trial is None:
                break
            settings = suggest(trial, experiment.tune.space)
            done, wanted = _num_done(study), experiment.tune.trials
            left = (time.monotonic() - start) * (wanted - done) / max(done - num_before, 1)
            log.info(
                "trial %d (%d of %d%s): %s", shown_number(trial), done + 1, wanted,
                f", about {left / 60:.0f} min left" if done > num_before else "",
                describe(settings),
            )  # fmt: skip
            try:
                file = run_trial(run, experiment, registries, settings, photos)
            except (StepFailed, UserError) as error:
                log.warning("this trial failed: %s", error)
                trial.set_user_attr(ERROR, str(error))
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            trial.set_user_attr(FILE, to_json(file))
            study.tell(trial, file.val_top1)
            log.info(
                "%s: validation top-1 %.1f %%, %.2f ms%s", file.name, 100 * file.val_top1,
                file.p50_ms, f" ({file.why})" if file.why else "",
            )  # fmt: skip


def finished_trials(study: Any) -> list[tuple[Any, TrialFile]]:
    """The trials that were finished, in their order, each with its best file."""
    return [
        (trial, from_json(TrialFile, trial.user_attrs[FILE]))
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name == "COMPLETE"
    ]


def shown_number(trial: Any) -> int:
    """The number of a trial for people. A trial that was killed and begun again has a new one."""
    return int(trial.number) + 1


def describe(settings: Settings) -> str:
    """Settings in one line."""
    return "  ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in settings.items()
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError(
            "distill tune needs Optuna. Install it: pip install 'potstill[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open_study(optuna: Any, run: RunDir, experiment: Experiment) -> Any:
    """The study of a run, with the config's own values as its first trial."""
    space = experiment.tune.model_dump(mode="json")["space"]
    with _claim(run):
        path = run.path / "tune" / "study.log"
        # The system releases this lock of a killed process. Optuna's own would stay, and one in a
        # folder that is named relatively would be waited for without end.
        lock = FileLock(path.with_name("study.lock"))
        with lock:
            _drop_half_line(path)
        backend = optuna.storages.journal.JournalFileBackend(str(path), lock)
        study = optuna.create_study(
            study_name="tune",
            storage=optuna.storages.JournalStorage(backend),
            direction="maximize",
            load_if_exists=True,
        )
        if "space" not in study.user_attrs:
            study.set_user_attr("space", space)
            if own := present_values(experiment):
                study.enqueue_trial(own)
    if study.user_attrs["space"] != space:
        raise UserError(
            f"{run.path / 'tune'} holds trials of another tune.space. Search elsewhere: --run DIR. "
            "Or remove the folder."
        )
    return study


def _drop_half_line(path: Path) -> None:
    """Remove the entry that a full disk cut off: with the next one behind it, none can be read."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _sampler(optuna: Any, experiment: Experiment, num_trials: int) -> Any:
    """The sampler of the next trial.

    Its seed differs, or each process would draw the same. Kills do not change it.
    """

    def excess(trial: Any) -> list[float]:
        return [trial.user_attrs[FILE]["excess"]] if FILE in trial.user_attrs else [0.0]

    return optuna.samplers.TPESampler(
        seed=experiment.seed + num_trials,
        n_startup_trials=max(min(10, experiment.tune.trials // 3), 1),
        constraints_func=excess,
    )


@contextmanager
def _claim(run: RunDir) -> Iterator[None]:
    """Held while a process changes which trials there are."""
    with FileLock(run.path / "tune" / "claim.lock"):
        yield


@contextmanager
def _next_trial(optuna: Any, study: Any, run: RunDir, experiment: Experiment) -> Iterator[Any]:
    """A new trial of this process, while its lock is held; None if enough are done or running."""
    with _claim(run):
        running = _release_killed(optuna, study, run, experiment)
        trial, lock = None, None
        if _num_done(study) + running < experiment.tune.trials:
            study.sampler = _sampler(optuna, experiment, len(_begun(study)))
            trial = study.ask()
            lock = _lock_of(run, trial.number)
            lock.acquire(timeout=0)
    try:
        yield trial
    finally:
        if lock is not None:
            lock.release()


def _release_killed(optuna: Any, study: Any, run: RunDir, experiment: Experiment) -> int:
    """Begin trials of killed processes again; returns how many trials other processes run."""
    running = 0
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name != "RUNNING":
            continue
        lock = _lock_of(run, trial.number)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            running += 1
            continue
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        # One that was killed before it had all settings draws them again, as it did.
        is_whole = len(trial.params) == len(experiment.tune.space)
        settings = trial.params if is_whole else trial.system_attrs.get("fixed_params", {})
        study.enqueue_trial(settings, user_attrs={CONTINUES: trial.number})
        lock.release()
    return running


def _lock_of(run: RunDir, number: int) -> FileLock:
    folder = run.path / "tune" / "running"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"{number}.lock")


def _num_done(study: Any) -> int:
    """Trials that were finished or failed by themselves, not by a kill."""
    return sum(trial.state.name in ("COMPLETE", "FAIL") for trial in _begun(study))


def _begun(study: Any) -> list[Any]:
    """The trials that were begun, without those that were killed and are begun again."""
    trials = study.get_trials(deepcopy=False)
    continued = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [
        trial for trial in trials if trial.state.name != "WAITING" and trial.number not in continued
    ]
