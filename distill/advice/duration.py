"""How long the trainings of a run will take on this machine, from a few measured updates."""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.training import GivenTeacherConfig, TeacherConfig, TrainingConfig
from distill.backbones import BACKBONES
from distill.backbones.weights.published import catalogue
from distill.data.manifest import load_examples, student_examples, teacher_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource, steps_per_epoch, student_views
from distill.frozen import answers_of
from distill.losses import label_objective
from distill.training.fit import compile_model
from distill.training.precision import computing_in
from distill.training.settings import make_plan, make_schedule
from distill.training.strategies.layers import train_only

log = logging.getLogger("potstill")

LONG = 1800.0
"""Seconds from which on a run says beforehand how long it will take."""
TOO_LONG = 4 * 3600.0
"""Seconds from which on a run without a GPU names a config that is cheaper."""
NUM_MEASURED = 3
MOST_AT_ONCE = 2e10
"""MACs of a measured batch. A network that needs more is measured on fewer photos at once."""
MACS_PER_SECOND = 2e10
"""About what two cores do in inference; an update needs three times as long."""


@dataclass(frozen=True)
class StepDuration:
    """How long one step will take.

    Attributes:
        how: what was measured, in words.
    """

    step: str
    seconds: float
    how: str


@dataclass(frozen=True)
class Pace:
    """What one network takes on this machine, in seconds.

    Attributes:
        start: until the first update is done.
        update: of one photo, in an update.
        answer: of one photo, in inference.
        view: to make a view of one photo.
    """

    start: float
    update: float
    answer: float
    view: float


def durations(run: RunDir, experiment: Experiment, photos: PhotoStore) -> list[StepDuration]:
    """The steps that train or label, in their order. The photos must have been scanned.

    Files and measurements come on top: minutes for a small student.
    """
    teacher, student = experiment.teacher, experiment.student
    num_validation = len(load_examples(run, "validation"))
    views = student_views(run, experiment, photos)
    num_student = len(student_examples(run))
    steps: list[StepDuration] = []
    if isinstance(teacher, TeacherConfig):
        pace = measure_pace(teacher, views)
        num_photos = len(teacher_examples(run, teacher.labels))
        steps.append(
            StepDuration(
                "teacher",
                training_seconds(teacher, pace, num_photos, num_validation),
                _how(teacher, pace),
            )
        )
        per_view = pace.answer + pace.view
        num_views = experiment.soft_labels.num_views
        how = f"{num_student} photos x {num_views} views, {1000 * per_view:.0f} ms each"
        steps.append(StepDuration("soft labels", num_student * num_views * per_view, how))
    pace = measure_pace(student, views)
    seconds = training_seconds(student, pace, num_student, num_validation)
    names = ["student", *(["control"] if student.control else [])] * student.seeds
    names += ["control"] * len(student.label_curve)
    for name in dict.fromkeys(names):
        count = names.count(name)
        many = f" x {count}" if count > 1 else ""
        steps.append(StepDuration(name, count * seconds, _how(student, pace) + many))
    return steps


def announce(run: RunDir, experiment: Experiment, photos: PhotoStore) -> None:
    """Log how long the trainings will take, if that is more than half an hour.

    A run that has its student says nothing, and a teacher that is there counts no more. A run that
    is short even at a third of the speed of two cores is not measured.
    """
    rough = rough_seconds(run, experiment)
    if run.model("student").exists() or (rough is not None and rough < LONG / 3):
        return
    steps = durations(run, experiment, photos)
    if run.model("teacher").exists():
        steps = [step for step in steps if step.step != "teacher"]
    total = sum(step.seconds for step in steps)
    if total < LONG:
        return
    parts = ", ".join(f"{step.step} {time_text(step.seconds)}" for step in steps)
    log.info("the trainings will take about %s on this machine: %s", time_text(total), parts)
    if total > TOO_LONG and not tf.config.list_physical_devices("GPU"):
        log.warning(
            "no GPU was found. photos_lite takes a fraction of that, with smaller networks and "
            "images: distill run photos_lite --set data.path=%s",
            experiment.data.path or "photos/",
        )


def time_text(seconds: float) -> str:
    """A duration that a person reads: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def training_seconds(
    config: TrainingConfig, pace: Pace, num_photos: int, num_validation: int
) -> float:
    """Seconds of a training on so many photos."""
    plan = make_plan(config, num_photos=num_photos)
    once = num_photos * (pace.answer + pace.view)
    if plan.num_cached_views is not None:
        return pace.start + plan.num_cached_views * once
    batch_size = min(config.batch_size, num_photos)
    num_seen = batch_size * steps_per_epoch(num_photos, config.batch_size)
    epoch = num_seen * (pace.update + pace.view) + num_validation * pace.answer
    return pace.start + config.epochs * epoch + (once if plan.head_first else 0)


def _how(config: TrainingConfig, pace: Pace) -> str:
    per_photo = 1000 * (pace.update + pace.view)
    return f"{config.epochs} epochs, {per_photo:.0f} ms a photo"


def measure_pace(config: TrainingConfig, views: ViewSource) -> Pace:
    """Build a network, update it a few times on real views, and let it answer."""
    num_classes, size = len(views.examples.classes), config.image_size
    options = {**config.backbone.options, "weights": None}
    if BACKBONES.facts(config.backbone.name).get("image_size") is None:
        options = config.backbone.options  # a network of the user's, which comes from its file
    build = BACKBONES[config.backbone.name]
    model = build(image_size=size, num_classes=num_classes, **options)
    batch_size = _measured_batch(config)
    images, view_seconds = _some_views(views, size, batch_size)
    plan = make_plan(config, num_photos=len(views.examples))
    with computing_in(config.precision, model):
        train_only(model, plan.phases[-1].top, freeze_batchnorm=plan.freeze_batchnorm)
        schedule = make_schedule(config, plan, steps_per_epoch=1)
        compile_model(model, label_objective(0.0), schedule, num_classes=num_classes)
        labels = np.eye(num_classes, dtype="float32")[np.arange(batch_size) % num_classes]
        start, update = _time(lambda: model.train_on_batch(images, labels))
    answers = answers_of(model)
    _, answer = _time(lambda: answers(images))
    return Pace(start, update / batch_size, answer / batch_size, view_seconds)


def _measured_batch(config: TrainingConfig) -> int:
    macs = _rough_macs(config) or 0.0
    return min(config.batch_size, max(int(MOST_AT_ONCE / max(macs, 1.0)), 4))


def _time(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the first call, and the median of some later ones."""
    times = []
    for _ in range(NUM_MEASURED + 1):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times[0], statistics.median(times[1:])


def _some_views(views: ViewSource, size: int, count: int) -> tuple[np.ndarray, float]:
    """Views of the first photos, float32 (count, size, size, 3), and the seconds of one."""
    indices = np.arange(count) % len(views.examples)
    pairs = tf.data.Dataset.from_tensor_slices((indices, np.zeros(count, "int64")))
    dataset = views.images(pairs, size)
    images = np.stack([view.image.numpy() for view in dataset])
    begin = time.perf_counter()
    for _ in dataset:  # once more: the photos are decoded by now, as in every epoch but the first
        pass
    return images, (time.perf_counter() - begin) / count


def _rough_macs(config: TrainingConfig) -> float | None:
    """MACs of one photo, from the catalogue; None for a network of the user's."""
    known = catalogue().get(config.backbone.name)
    if known is None or not known["num_macs"]:
        return None
    default = BACKBONES.facts(config.backbone.name)["image_size"]
    width = config.backbone.options.get("width", 1.0)
    return float(known["num_macs"]) * (config.image_size / default) ** 2 * width**2


def rough_seconds(run: RunDir, experiment: Experiment) -> float | None:
    """About how long the trainings take on two cores, without a measurement; None if unknown."""
    num_photos, student = len(student_examples(run)), experiment.student
    total = 0.0
    macs = _rough_macs(student)
    if macs is None:
        return None
    num_trained = (1 + student.control) * student.seeds + len(student.label_curve)
    total += 3 * macs * student.epochs * num_photos * num_trained
    if not isinstance(experiment.teacher, GivenTeacherConfig):
        macs = _rough_macs(experiment.teacher)
        if macs is None:
            return None
        passes = 3 * experiment.teacher.epochs + experiment.soft_labels.num_views
        total += macs * num_photos * passes
    return total / MACS_PER_SECOND
