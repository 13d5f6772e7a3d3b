"""Build, train and save one classifier: teacher, student and control are all trained here."""

import logging
import time
from dataclasses import dataclass, replace
from functools import partial

import keras

from configs.records import to_json
from configs.resume import Built, Workspace
from configs.run_dir import RunDir
from distill.backbones import BACKBONES
from distill.data.manifest import load_examples
from distill.data.pipelines import evaluation_images
from distill.feature_losses import facts_of
from distill.model_file import describe, save_model
from distill.trackers.of_run import Trackers
from distill.training.checkpoint import EpochRow
from distill.training.feature_student import FeatureStudent, feature_student, fold_projection
from distill.training.fit import fit
from distill.training.precision import computing_in
from distill.training.settings import make_plan, make_schedule
from distill.training.strategies import Plan
from distill.training.strategies.lesson import EVALUATION_BATCH, TrainingJob, make_lesson

log = logging.getLogger("potstill")

CHECKPOINT = "epoch.npz"
"""The file in the workspace of a step that holds the state of its training."""


@dataclass(frozen=True)
class TrainingFacts:
    """What the manifest of a trained model says about its training.

    Attributes:
        strategy: its name, and which layers learned when.
    """

    seconds_to_train: float
    epochs: int
    val_top1: float
    strategy: str


def train_classifier(
    run: RunDir, job: TrainingJob, workspace: Workspace, trackers: Trackers
) -> Built:
    """Train and write `<name>/model.keras` and `<name>/history.csv`.

    Args:
        trackers: are told every epoch.

    Returns:
        The files, and what the manifest says about the model.
    """
    start = time.monotonic()
    config, num_classes = job.config, len(job.views.examples.classes)
    keras.utils.set_random_seed(job.seed)
    build = BACKBONES[config.backbone.name]
    model = build(image_size=config.image_size, num_classes=num_classes, **config.backbone.options)
    plan = _plan(job)
    strategy = f"{config.strategy.name}: {plan}"
    log.info("%s learns by strategy %s", job.name, strategy)
    if config.backbone.options.get("weights") is None and not plan.trains_all:
        log.warning("%s starts at random, and layers that do not learn stay so", job.name)
    student = FeatureStudent(model, model)
    if job.features is not None:
        student = feature_student(model, job.features)
    with computing_in(config.precision, model):
        history = _fit(run, job, plan, model, student, workspace, trackers)
    if job.features is not None and job.features.head is not None:
        fold_projection(model, student, job.features.head)
    seconds = max(sum(row.seconds for row in history), time.monotonic() - start)
    # With patience the model has the weights of its best epoch, otherwise those of the last.
    result = min(history, key=lambda row: row.val_loss) if config.patience else history[-1]
    facts = TrainingFacts(
        seconds_to_train=round(seconds, 1),
        epochs=len(history),
        val_top1=result.val_accuracy,
        strategy=strategy,
    )
    return save_model(run, job.name, model, history), {
        **to_json(describe(model, config.backbone.name, config.image_size)),
        **to_json(facts),
    }


def _plan(job: TrainingJob) -> Plan:
    plan = make_plan(job.config, num_photos=len(job.views.training_rows))
    if job.features is not None and facts_of(job.features.loss).reads == "attention":
        # Its maps are not among the stored features.
        return replace(plan, num_cached_views=None)
    return plan


def _fit(
    run: RunDir,
    job: TrainingJob,
    plan: Plan,
    model: keras.Model,
    student: FeatureStudent,
    workspace: Workspace,
    trackers: Trackers,
) -> list[EpochRow]:
    config = job.config
    validation, size = load_examples(run, "validation"), (config.image_size, config.image_size)
    images = partial(evaluation_images, validation, size, EVALUATION_BATCH)
    lesson = make_lesson(job, plan, model, student, images, workspace)
    return fit(
        lesson.student.trained,
        classifier=lesson.student.classifier,
        train=lesson.train,
        validation=lesson.validation,
        objective=job.objective,
        schedule=make_schedule(
            config, plan, steps_per_epoch=job.views.steps_per_epoch(config.batch_size)
        ),
        checkpoint=workspace.file(CHECKPOINT),
        name=job.name,
        prepare=lesson.prepare,
        phases=lesson.phases,
        on_epoch=lambda row: trackers.log_epoch(job.name, row.epoch, _curves(row)),
    )


def _curves(row: EpochRow) -> dict[str, float]:
    """What trackers draw of an epoch, over its number."""
    return {name: value for name, value in to_json(row).items() if name != "epoch"}
