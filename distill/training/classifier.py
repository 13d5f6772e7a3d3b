"""Build, train and save one classifier: teacher, student and control are all trained here."""

import dataclasses
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras

from configs.errors import UserError
from configs.records import to_json
from configs.resume import Built, Facts, Workspace
from configs.run_dir import RunDir
from distill.backbones import BACKBONES
from distill.data.manifest import load_examples
from distill.data.pipelines import evaluation_images
from distill.feature_losses import facts_of
from distill.model_file import describe, save_model
from distill.trackers.of_run import Trackers
from distill.training.checkpoint import EpochRow
from distill.training.distribution.devices import (
    Replicas,
    check_batch,
    find_replicas,
    synchronize,
)
from distill.training.epochs import Batches, ValidationScores, validate
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
    config, plan = job.config, _plan(job)
    strategy = f"{config.strategy.name}: {plan}"
    log.info("%s learns by strategy %s", job.name, strategy)
    if config.backbone.options.get("weights") is None and not plan.trains_all:
        log.warning("%s starts at random, and layers that do not learn stay so", job.name)
    # Stored features train a classifier in seconds, on one device.
    replicas = None if plan.num_cached_views is not None else find_replicas(job.devices)
    if replicas is not None:
        section = "teacher" if job.name == "teacher" else "student"  # of the config
        check_batch(section, job.batch_size, replicas)
    model, student = _network(job)

    def on_epoch(row: EpochRow) -> None:
        trackers.log_epoch(job.name, row.epoch, _curves(row))

    with computing_in(config.precision, model):
        if replicas is None:
            history = _fit(run, job, plan, model, student, workspace, on_epoch=on_epoch)
        else:
            # One device makes the first checkpoint, from which all of them begin.
            _fit(run, job, plan, model, student, workspace, begin_only=True)
            if replicas.group is not None:
                replicas.group.call(job.name)
            history = _fit_together(run, job, workspace, replicas, student, on_epoch=on_epoch)
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


def join_training(run: RunDir, job: TrainingJob, workspace: Workspace) -> None:
    """Take part in a training that process 0 has begun; it writes all files.

    Raises:
        UserError: this process does not see the files of process 0.
    """
    replicas = find_replicas(job.devices)
    assert replicas is not None, "process 0 trains on several devices"
    if not workspace.file(CHECKPOINT).exists():
        raise UserError(
            f"{workspace.file(CHECKPOINT)} is not there, and process 0 has written it. All "
            "processes need the same config and the same run directory, on a shared file system."
        )
    _fit_together(run, job, workspace, replicas, None)


def _network(job: TrainingJob) -> tuple[keras.Model, FeatureStudent]:
    """The classifier of a job, and the network that is trained."""
    config = job.config
    keras.utils.set_random_seed(job.seed)
    build = BACKBONES[config.backbone.name]
    model = build(
        image_size=config.image_size,
        num_classes=len(job.views.examples.classes),
        **config.backbone.options,
    )
    student = FeatureStudent(model, model)
    if job.features is not None:
        student = feature_student(model, job.features)
    return model, student


def _fit_together(
    run: RunDir,
    job: TrainingJob,
    workspace: Workspace,
    replicas: Replicas,
    result: FeatureStudent | None,
    **options: Any,
) -> list[EpochRow]:
    """Train on several devices, from the checkpoint on.

    Args:
        result: the same network on one device. It is validated, and has the trained weights in the
            end. None in all processes but the first.
    """
    job = replace(job, share=replicas.share)
    with replicas.scope():
        model, student = _network(job)
        synchronize(student.trained)

        def copy_weights() -> None:
            assert result is not None
            for variable, source in zip(
                result.trained.variables, student.trained.variables, strict=True
            ):
                variable.assign(keras.ops.convert_to_numpy(source))

        def scores() -> Facts:
            copy_weights()
            assert result is not None
            # Another thread is outside of the scope, so that one device answers.
            with ThreadPoolExecutor(1) as outside:
                scored = outside.submit(validate, result.classifier, _validation(run, job))
                return dataclasses.asdict(scored.result())

        with computing_in(job.config.precision, model):
            history = _fit(
                run, job, _plan(job), model, student, workspace,
                score=lambda: ValidationScores(**replicas.agreed(scores)),
                writes=result is not None,
                **options,
            )  # fmt: skip
    if result is not None:
        copy_weights()
    return history


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
    **options: Any,
) -> list[EpochRow]:
    """Train `student`; `options` are further arguments of `fit`."""
    config = job.config
    lesson = make_lesson(job, plan, model, student, _validation(run, job), workspace)
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
        **options,
    )


def _validation(run: RunDir, job: TrainingJob) -> Batches:
    """The validation split, in batches for the classifier of a job."""
    size = (job.config.image_size, job.config.image_size)
    return partial(evaluation_images, load_examples(run, "validation"), size, EVALUATION_BATCH)


def _curves(row: EpochRow) -> dict[str, float]:
    """What trackers draw of an epoch, over its number."""
    return {name: value for name, value in to_json(row).items() if name != "epoch"}
