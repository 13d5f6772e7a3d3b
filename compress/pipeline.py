"""The steps of a run in their order, and what each needs to be there."""

from collections.abc import Callable, Iterator
from typing import Any

from compress.files import file_steps, method_chain, sources
from compress.prune import check_order, method_step
from compress.recipes.write import file_name, keeps_float32
from configs.artifacts import read_json, write_text
from configs.errors import UserError
from configs.loading.experiment import to_yaml
from configs.registry import nearest
from configs.resume import Step, is_current, take_step
from configs.run_dir import RunDir
from configs.schema import Choice, Experiment
from distill.data.manifest import Examples, load_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import open_photo_store
from distill.data.scan import data_step
from distill.labels.soft_labels import soft_labels_step
from distill.predictions import corrupted_model_step, model_predictions_step
from distill.student import (
    check_loss,
    control_step,
    seed_name,
    student_step,
)
from distill.teacher import teacher_step
from eval.report.report import RunPhotos
from eval.scoring.predictions import Photos, file_predictions_step
from eval.scoring.robustness import corrupted_file_step, corrupted_photos
from eval.timing.results import latency_step

Steps = Iterator[Step]

# Which command does a step, for those who must be told to give it.
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


def _data(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    yield data_step(run, experiment.data)


def _teacher(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    yield teacher_step(run, experiment, photos)


def _label(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    yield soft_labels_step(run, experiment, photos)


def _student(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    for number in range(1, experiment.student.seeds + 1):
        yield student_step(run, experiment, photos, number)
        if experiment.student.control:
            yield control_step(run, experiment, photos, number)


def _prune(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    parent = "student"
    for name, method in method_chain(experiment):
        yield method_step(run, experiment, photos, parent=parent, name=name, method=method)
        parent = name


def _export(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    recipes = [r for r in experiment.compress.recipes if keeps_float32(r.name)]
    for source in sources(experiment):
        yield from file_steps(run, experiment, source, recipes)


def _quantize(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    recipes = [r for r in experiment.compress.recipes if not keeps_float32(r.name)]
    for source in sources(experiment):
        yield from file_steps(run, experiment, source, recipes)


def _accuracy(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    for name in [*model_names(experiment), *further_seeds(experiment)]:
        yield model_predictions_step(run, experiment, name)
    splits, threads = run_photos(run), experiment.evaluate.num_threads
    for name in file_names(experiment):
        scored = [splits.validation, splits.test]
        yield file_predictions_step(run, run.file(name), scored, num_threads=threads)
    corrupted = corrupted_photos(experiment, paths=splits.test.paths, labels=splits.test.labels)
    if corrupted is not None:
        for name in model_names(experiment):
            yield corrupted_model_step(run, experiment, name, corrupted)
        for name in file_names(experiment):
            yield corrupted_file_step(run, run.file(name), corrupted, num_threads=threads)


def _latency(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Steps:
    for device in experiment.evaluate.devices:
        yield device_latency_step(run, experiment, device)


def device_latency_step(run: RunDir, experiment: Experiment, device: Choice) -> Step:
    """The files of the run timed on one device."""
    return latency_step(
        run,
        [run.file(name) for name in file_names(experiment)],
        device=device.name,
        options=device.options,
        num_threads=experiment.evaluate.num_threads,
        num_warmup=experiment.evaluate.num_warmup,
        num_runs=experiment.evaluate.num_runs,
    )


STEPS: dict[str, Callable[[RunDir, Experiment, PhotoStore], Steps]] = {
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
    control = ["control"] if experiment.student.control else []
    return ["teacher", "student", *control, *sources(experiment)[1:]]


def further_seeds(experiment: Experiment) -> list[str]:
    """Students and controls beyond the first of each."""
    numbers = range(2, experiment.student.seeds + 1)
    return [seed_name(name, number) for number in numbers for name in ("student", "control")]


def file_names(experiment: Experiment) -> list[str]:
    """Every file of the run, in the order of the config."""
    recipes = experiment.compress.recipes
    return [file_name(source, r.name) for source in sources(experiment) for r in recipes]


def run_photos(run: RunDir) -> RunPhotos:
    """The validation and test photos, as the results take them."""
    validation, test = load_examples(run, "validation"), load_examples(run, "test")
    return RunPhotos(test.classes, as_photos("validation", validation), as_photos("test", test))


def as_photos(split: str, examples: Examples) -> Photos:
    return Photos(split, examples.paths, examples.labels)


def take(
    run: RunDir,
    experiment: Experiment,
    names: list[str],
    *,
    target: str,
    force: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Take some steps in their order, after a look that what they need is there.

    Returns:
        The manifests of what the last of the steps made.

    Raises:
        UserError: a step that is needed was never done or not for this config.
    """
    for step in force or []:
        if step not in STEPS:
            raise UserError(f"--force {step}: unknown step.{nearest(step, STEPS)}")
        if step not in names:
            raise UserError(f"--force {step}: this command does {', '.join(names)}.")
    _ready(run, experiment, names, target)
    manifests: list[dict[str, Any]] = []
    # All models of this call share one store of decoded photos.
    with open_photo_store(run, experiment) as photos:
        for name in names:
            steps = STEPS[name](run, experiment, photos)
            manifests = [take_step(step, force=name in (force or [])) for step in steps]
    return manifests


def take_one(
    run: RunDir,
    experiment: Experiment,
    step: Callable[[RunDir, Experiment], Step],
    name: str,
    *,
    target: str,
    force: list[str] | None = None,
) -> dict[str, Any]:
    """Take a step that stands in for the step `name`, or is a part of it.

    Returns:
        Its manifest.
    """
    _ready(run, experiment, [name], target)
    return take_step(step(run, experiment), force=name in (force or []))


def _ready(run: RunDir, experiment: Experiment, names: list[str], target: str) -> None:
    check_loss(experiment)
    check_order(experiment)
    needed = [name for name in STEPS if any(name in NEEDS[n] for n in names) and name not in names]
    ensure(run, experiment, needed, target)
    write_text(run.experiment, to_yaml(experiment))


def ensure(run: RunDir, experiment: Experiment, names: list[str], target: str) -> None:
    """Raise UserError unless these steps were done for this config.

    But for the photos, which are looked at again if need be: that takes seconds, and a run that
    was copied or whose photos were touched shall not have to be told.
    """
    with open_photo_store(run, experiment) as photos:
        for name in names:
            if name == "data" and _photos_are_elsewhere(run, experiment):
                continue
            for step in STEPS[name](run, experiment, photos):
                if name == "data":
                    # Two shards of the labels may start together, and both check the photos.
                    take_step(step, wait=True)
                else:
                    _require(run, step, name, target)


def _photos_are_elsewhere(run: RunDir, experiment: Experiment) -> bool:
    """A run that was copied to a machine without its photos: what is done stays done."""
    manifest, path = run.photos_manifest.with_suffix(".json"), experiment.data.path
    if path is None or path.exists() or not manifest.exists():
        return False
    return bool(read_json(manifest)["inputs"]["data"] == experiment.data.model_dump(mode="json"))


def _require(run: RunDir, step: Step, name: str, target: str) -> None:
    if not is_current(step.manifest, step.inputs):
        stale = "was done for other settings, or its files changed since"
        been = stale if step.manifest.exists() else "has not been done"
        raise UserError(
            f"the {name} step of {run} {been} ({step.name}). Do it first:\n"
            f"  {COMMANDS[name]} {target} --run {run}"
        )
