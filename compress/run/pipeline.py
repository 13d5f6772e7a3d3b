"""The steps of a run in their order, and what each step needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from compress.prune import method_step
from compress.recipes.write import file_name, keeps_float32
from compress.run.files import file_steps, method_chain, sources
from configs.remote.cluster import Cluster
from configs.resume import Step
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from distill.checks import check_photos
from distill.data.manifest import Examples, load_examples
from distill.data.photo_store import PhotoStore
from distill.data.scan import data_step
from distill.labels.soft_labels import soft_labels_step
from distill.student import (
    control_step,
    seed_name,
    share_name,
    student_step,
)
from distill.teacher import teacher_step
from distill.trained.predictions import corrupted_model_step, model_predictions_step
from distill.trained.ship import ship_step, shipped_of
from distill.trained.temperature import temperature_step
from eval.report.report import RunPhotos
from eval.scoring.corruption.photos import corrupted_file_step, corrupted_photos
from eval.scoring.predictions import Photos, file_predictions_step
from eval.timing.results import latency_step

Steps = Iterator[Step]

COMMANDS = {
    "data": "distill data",
    "teacher": "distill teacher",
    "label": "distill label",
    "student": "distill student",
    "prune": "compress prune",
    "export": "compress export",
    "quantize": "compress quantize",
    "accuracy": "evaluate accuracy",
    "latency": "evaluate latency",
}
"""Which command does a step."""

NEEDS = {
    "data": [],
    "teacher": ["data"],
    "label": ["data", "teacher"],
    "student": ["data", "teacher", "label"],
    "prune": ["data", "teacher", "label", "student"],
    "export": ["data", "teacher", "student", "prune"],
    "quantize": ["data", "teacher", "student", "prune"],
    "accuracy": ["data", "teacher", "student", "prune", "export", "quantize"],
    "latency": ["data", "teacher", "student", "prune", "export", "quantize"],
    "report": ["data", "teacher", "student", "prune", "export", "quantize", "accuracy"],
}
"""The steps that must be done before a step, or before the report."""


@dataclass(frozen=True)
class Context:
    """What the steps of one command share.

    Attributes:
        photos: decoded photos, shared by all models that the command trains.
        failures: files that could not be written, and why. The other steps go on without them.
        cluster: does the tasks of large steps; None for this process.
    """

    run: RunDir
    experiment: Experiment
    photos: PhotoStore
    failures: dict[str, str] = field(default_factory=dict)
    cluster: Cluster | None = None

    @property
    def files(self) -> list[str]:
        """The names of the run's files, without those that failed."""
        return [name for name in file_names(self.run, self.experiment) if name not in self.failures]


def _data(context: Context) -> Steps:
    yield data_step(context.run, context.experiment.data)


def _teacher(context: Context) -> Steps:
    run, experiment = context.run, context.experiment
    check_photos(run, experiment)  # not after the hours of a teacher
    yield teacher_step(run, experiment, context.photos)


def _label(context: Context) -> Steps:
    run, experiment = context.run, context.experiment
    yield soft_labels_step(run, experiment, context.photos, context.cluster)


def _student(context: Context) -> Steps:
    run, experiment = context.run, context.experiment
    for number in range(1, experiment.student.seeds + 1):
        yield student_step(run, experiment, context.photos, number)
        if experiment.student.control:
            yield control_step(run, experiment, context.photos, number)
    for share in experiment.student.label_curve:
        yield control_step(run, experiment, context.photos, share=share)
    for name in [*trained_names(experiment), *further_seeds(experiment)]:
        yield temperature_step(run, name)
    yield ship_step(run, experiment)


def _prune(context: Context) -> Steps:
    run, experiment = context.run, context.experiment
    parent: str = shipped_of(run).model
    for name, method in method_chain(experiment):
        yield method_step(run, experiment, context.photos, parent=parent, name=name, method=method)
        yield temperature_step(run, name)
        parent = name


def _export(context: Context) -> Steps:
    run, experiment = context.run, context.experiment
    recipes = [r for r in experiment.compress.recipes if keeps_float32(r.name)]
    for source in sources(run, experiment):
        yield from file_steps(run, experiment, source, recipes)


def _quantize(context: Context) -> Steps:
    run, experiment = context.run, context.experiment
    recipes = [r for r in experiment.compress.recipes if not keeps_float32(r.name)]
    for source in sources(run, experiment):
        yield from file_steps(run, experiment, source, recipes)


def _accuracy(context: Context) -> Steps:
    run, experiment = context.run, context.experiment
    for name in [*model_names(experiment), *further_seeds(experiment), *curve_names(experiment)]:
        yield model_predictions_step(run, experiment, name, context.cluster)
    splits, threads = run_photos(run), experiment.evaluate.num_threads
    for name in context.files:
        scored = [splits.validation, splits.test]
        yield file_predictions_step(
            run, run.file(name), scored, num_threads=threads, cluster=context.cluster
        )
    corrupted = corrupted_photos(experiment, paths=splits.test.paths, labels=splits.test.labels)
    if corrupted is not None:
        for name in model_names(experiment):
            yield corrupted_model_step(run, experiment, name, corrupted)
        for name in context.files:
            yield corrupted_file_step(run, run.file(name), corrupted, num_threads=threads)


def _latency(context: Context) -> Steps:
    run, experiment = context.run, context.experiment
    if context.files:
        for device in experiment.evaluate.devices:
            yield device_latency_step(run, experiment, device, files=context.files)


def device_latency_step(
    run: RunDir, experiment: Experiment, device: Choice, *, files: list[str] | None = None
) -> Step:
    """Time files of the run on one device; all of them by default."""
    return latency_step(
        run,
        [run.file(name) for name in files or file_names(run, experiment)],
        device=device.name,
        options=device.options,
        num_threads=experiment.evaluate.num_threads,
        num_warmup=experiment.evaluate.num_warmup,
        num_runs=experiment.evaluate.num_runs,
    )


STEPS: dict[str, Callable[[Context], Steps]] = {
    "data": _data,
    "teacher": _teacher,
    "label": _label,
    "student": _student,
    "prune": _prune,
    "export": _export,
    "quantize": _quantize,
    "accuracy": _accuracy,
    "latency": _latency,
}


def model_names(experiment: Experiment) -> list[str]:
    """Every model of the run, the teacher first."""
    return ["teacher", *trained_names(experiment), *(name for name, _ in method_chain(experiment))]


def further_seeds(experiment: Experiment) -> list[str]:
    """Students and controls beyond the first of each."""
    numbers = range(2, experiment.student.seeds + 1)
    return [seed_name(name, number) for number in numbers for name in ("student", "control")]


def trained_names(experiment: Experiment) -> list[str]:
    """The student and its control."""
    return ["student", "control"] if experiment.student.control else ["student"]


def curve_names(experiment: Experiment) -> list[str]:
    """The controls of the label curve."""
    return [share_name(share) for share in experiment.student.label_curve]


def file_names(run: RunDir, experiment: Experiment) -> list[str]:
    """Every file of the run, in the order of the config."""
    recipes = experiment.compress.recipes
    return [file_name(source, r.name) for source in sources(run, experiment) for r in recipes]


def run_photos(run: RunDir) -> RunPhotos:
    """The validation and test photos, as the results take them."""
    validation, test = load_examples(run, "validation"), load_examples(run, "test")
    return RunPhotos(test.classes, as_photos("validation", validation), as_photos("test", test))


def as_photos(split: str, examples: Examples) -> Photos:
    return Photos(split, examples.paths, examples.labels)
