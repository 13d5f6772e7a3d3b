"""What `fit` trains: the whole network on views, or its classifier on stored features."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from configs.resume import Workspace
from configs.schema.training import TrainingConfig
from distill.data.pipelines import LabelReader, ViewSource, evaluation_images
from distill.losses import Objective
from distill.training.batches import training_batches
from distill.training.epochs import Batches, Phase
from distill.training.feature_student import FeatureGoal, FeatureStudent, fit_projection
from distill.training.strategies import Plan
from distill.training.strategies.layers import rate_factors, train_only
from distill.training.strategies.stored_features import (
    CachedViews,
    cached_views,
    evaluation_features,
    features_before_head,
    fit_head,
    fit_linear,
)

EVALUATION_BATCH = 32
FEATURES = "features.npy"
"""The file in the workspace of a step that holds the features of a frozen network."""


@dataclass(frozen=True)
class TrainingJob:
    """One classifier to train, and everything its training depends on.

    Attributes:
        name: of the model: teacher, student or control.
        views: of the examples that it learns from.
        soft_labels: reads the teacher's logits of these views; None trains on labels alone.
        features: what it learns from the teacher's features, which `soft_labels` then reads, too.
        devices: of this process, that train together.
        share: the part of every batch that this process reads, and of how many.
    """

    name: str
    config: TrainingConfig
    views: ViewSource
    objective: Objective
    seed: int
    soft_labels: LabelReader | None = None
    features: FeatureGoal | None = None
    devices: int | Literal["all"] = 1
    share: tuple[int, int] = (0, 1)

    @property
    def batch_size(self) -> int:
        """How many photos are in a batch."""
        return min(self.config.batch_size, len(self.views.training_rows))

    def batches(self, epoch: int, step: int, *, epochs: int) -> tf.data.Dataset:
        """(images, targets) from an update of an epoch to the end of the last epoch."""
        return training_batches(
            self.views,
            image_size=self.config.image_size,
            batch_size=self.config.batch_size,
            seed=self.seed,
            initial_epoch=epoch,
            initial_step=step,
            epochs=epochs,
            soft_labels=self.soft_labels,
            num_features=self.features.num_features if self.features else 0,
            share=self.share,
        )


@dataclass(frozen=True)
class Lesson:
    """What `fit` trains: the whole network, or its classifier on stored features.

    Attributes:
        prepare: is called before the first epoch.
    """

    student: FeatureStudent
    train: Callable[[int, int], tf.data.Dataset]
    validation: Batches
    prepare: Callable[[], None]
    phases: tuple[Phase, ...]


def make_lesson(
    job: TrainingJob,
    plan: Plan,
    model: keras.Model,
    student: FeatureStudent,
    validation: Batches,
    workspace: Workspace,
) -> Lesson:
    """What a plan trains.

    Args:
        model: the classifier that is saved in the end.
        student: `model`, and what its feature loss needs besides.
        validation: returns batches of (images, labels).
    """
    # Which layers learn decides which variables an optimizer and a checkpoint hold.
    phases = _phases(model, plan, job.config)
    phases[0].begin()
    if plan.num_cached_views is not None:
        return _on_stored_features(job, plan, model, student, validation, workspace)
    return Lesson(
        student=student,
        train=partial(job.batches, epochs=job.config.epochs),
        validation=validation,
        prepare=partial(_fit_last_layers, job, model, student) if plan.head_first else _nothing,
        phases=phases,
    )


def _nothing() -> None:
    pass


def _phases(model: keras.Model, plan: Plan, config: TrainingConfig) -> tuple[Phase, ...]:
    """The phases of a plan, for `fit`."""
    phases, end = [], 0
    for planned in plan.phases:
        end = config.epochs if planned.epochs is None else end + planned.epochs
        begin = partial(train_only, model, planned.top, freeze_batchnorm=plan.freeze_batchnorm)
        if plan.rate_decay != 1:
            begin()
        factors = rate_factors(model, plan.rate_decay)
        phases.append(Phase(end, rate=planned.rate, begin=begin, factors=factors))
    return tuple(phases)


def _on_stored_features(
    job: TrainingJob,
    plan: Plan,
    model: keras.Model,
    student: FeatureStudent,
    validation: Batches,
    workspace: Workspace,
) -> Lesson:
    """The classifier of `model`, and views that passed the frozen network once."""
    config = job.config
    assert plan.num_cached_views is not None
    views = cached_views(
        model,
        job.views,
        workspace.file(FEATURES),
        image_size=config.image_size,
        num_views=plan.num_cached_views,
    )
    scored = evaluation_features(model, validation())
    features = features_before_head(model)
    on_features = replace(
        student,
        trained=keras.Model(features, student.trained.outputs[0]),
        classifier=keras.Model(features, student.classifier.outputs[0]),
    )
    return Lesson(
        student=on_features,
        train=partial(replace(job, views=views).batches, epochs=config.epochs),
        validation=lambda: iter([scored]),
        prepare=partial(_fit_on_features, job, model, student, views),
        phases=(Phase(config.epochs),),
    )


def _fit_on_features(
    job: TrainingJob, model: keras.Model, student: FeatureStudent, views: CachedViews
) -> None:
    """Fit the head on the stored features of the first view of the photos with labels."""
    labels = views.examples.labels[views.training_rows]
    # Two labels belong to a mixed view, and this fit knows one.
    mixes = views.views.mixup or views.views.cutmix
    if student.classifier is model and not mixes:
        has_label = labels >= 0
        features = np.asarray(views.features[has_label, 0], "float32")
        fit_linear(model, features, labels[has_label], job.seed)
    if student.projection is not None:
        _fit_projection(replace(job, views=views), student, features_before_head(model))


def _fit_last_layers(job: TrainingJob, model: keras.Model, student: FeatureStudent) -> None:
    """Fit the head, and the projection of a feature loss, on features of the frozen network."""
    if student.classifier is model:  # otherwise its head is that of its teacher
        # A student also learns from photos without labels, which cannot fit a head.
        labelled = job.views.examples.with_labels()
        size = (job.config.image_size, job.config.image_size)
        fit_head(
            model,
            evaluation_images(labelled, size, EVALUATION_BATCH),
            num_examples=len(labelled),
            seed=job.seed,
        )
    if student.projection is not None:
        _fit_projection(job, student, student.trained.inputs)


def _fit_projection(job: TrainingJob, student: FeatureStudent, inputs: Any) -> None:
    first_feature = 2 * len(job.views.examples.classes)
    fit_projection(
        student,
        (
            (images, targets[:, first_feature:])
            for images, targets in job.batches(0, 0, epochs=1).as_numpy_iterator()
        ),
        num_batches=job.views.steps_per_epoch(job.config.batch_size),
        inputs=inputs,
    )
