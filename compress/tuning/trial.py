"""One trial of a search: a student with other settings, its files, and what they are worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compress.run.pipeline import STEPS, Context, device_latency_step
from compress.tuning.space import Settings
from configs.artifacts import digest, file_sha256
from configs.errors import StepFailed
from configs.loading.experiment import with_settings
from configs.records import from_json, to_json
from configs.registry import Registry
from configs.remote.cluster import Cluster
from configs.resume import Built, Step, Workspace, take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import load_examples
from distill.data.photo_store import PhotoStore
from eval.choice.budget import FileFacts, Limits, shortfalls
from eval.devices.registry import device_label
from eval.footprint import file_bytes, model_sha256
from eval.scoring.predictions import Photos, file_probabilities
from eval.timing.results import load_latency

SHARED = ("data", "teacher", "soft_labels")
"""Folders of the run that all trials use."""
SHARED_STEPS = ("data", "teacher", "label")
STUDENT_STEPS = ("label", "student", "prune", "export", "quantize")
BARE = {
    "student.control": False, "student.seeds": 1, "student.label_curve": [], "student.ship": "auto",
    "compress.accepted_accuracy": None,
}  # fmt: skip
"""A trial is compared with other trials. It needs neither a control nor a threshold."""


@dataclass(frozen=True)
class TrialFile:
    """A file of a trial.

    Attributes:
        val_top1: top-1 on the validation photos.
        p50_ms: on the first device.
        excess: by which share it exceeds the limits; 0 if it holds them.
        why: the limits that it does not hold.
    """

    name: str
    val_top1: float
    file_bytes: int
    p50_ms: float
    excess: float
    why: str


def share_steps(
    run: RunDir, experiment: Experiment, photos: PhotoStore, cluster: Cluster | None = None
) -> None:
    """Do what all trials share, on a cluster if there is one, or wait for who does it."""
    context = Context(run, experiment, photos, cluster=cluster)
    for name in SHARED_STEPS:
        for step in STEPS[name](context):
            take_step(step, wait=True)


def trial_folder(run: RunDir, settings: Settings) -> RunDir:
    """Where the trial with these settings lives: a run with the photos and teacher of `run`."""
    folder = run.path / "tune" / "trials" / digest(settings)
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(Path("../../..") / name, target_is_directory=True)
    return RunDir(folder)


def run_trial(
    run: RunDir,
    experiment: Experiment,
    registries: Mapping[str, Registry],
    settings: Settings,
    photos: PhotoStore,
) -> TrialFile:
    """Train the student, write its files and measure them; what was done before is kept.

    Returns:
        The best file: the most accurate of those that hold the limits, else the nearest to them.

    Raises:
        UserError: the settings do not go together.
        StepFailed: a step failed.
    """
    trial = trial_folder(run, settings)
    changed = with_settings(experiment, registries, {**settings, **BARE})
    context = Context(trial, changed, photos)
    for name in STUDENT_STEPS:
        for step in STEPS[name](context):
            take_step(step, wait=True)
    take_step(device_latency_step(trial, changed, changed.evaluate.devices[0]), wait=True)
    facts = take_step(_score_step(trial, changed, context.files), wait=True)
    files = [from_json(TrialFile, file) for file in facts["files"]]
    if not files:
        raise StepFailed("no file was written")
    return min(files, key=lambda file: (file.excess, -file.val_top1, file.p50_ms))


def _score_step(trial: RunDir, experiment: Experiment, names: list[str]) -> Step:
    """The step that scores the files of a trial on the validation photos."""
    paths = {name: trial.file(name) for name in names}
    device = experiment.evaluate.devices[0]
    label = device_label(device.name, device.options)
    budget = experiment.compress.budget
    latency = {name: rows[0] for name, rows in load_latency(trial, [label], names).items()}
    inputs = {
        "files": {name: model_sha256(path) for name, path in paths.items()},
        "photos": file_sha256(trial.photos_manifest),
        "latency": {name: row.p50_ms for name, row in latency.items()},
        "budget": budget.model_dump(mode="json"),
    }

    def build(workspace: Workspace) -> Built:
        validation = load_examples(trial, "validation")
        photos = Photos("validation", validation.paths, validation.labels)
        threads = experiment.evaluate.num_threads
        files = []
        for name, path in paths.items():
            probs = file_probabilities(path, photos, num_threads=threads)
            p50_ms, size = latency[name].p50_ms, file_bytes(path)
            limits = ((p50_ms, budget.max_latency_ms), (size, budget.max_bytes))
            reasons = shortfalls(
                FileFacts(size, "validation", p50_ms=p50_ms),
                Limits(max_p50_ms=budget.max_latency_ms, max_bytes=budget.max_bytes),
            )
            files.append(
                TrialFile(
                    name=name,
                    val_top1=float((probs.argmax(axis=1) == validation.labels).mean()),
                    file_bytes=size,
                    p50_ms=p50_ms,
                    excess=sum(max(value / most - 1, 0) for value, most in limits if most),
                    why="; ".join(reasons),
                )
            )
        return [], {"files": to_json(files)}

    return Step("score of the trial", trial.path / "results" / "trial.json", inputs, build)
