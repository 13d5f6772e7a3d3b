"""Build, train and save one classifier: teacher, student and control are all trained here."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import tensorflow as tf

from configs.artifacts import ending, file_sha256
from configs.records import to_json
from configs.resume import Built, Workspace
from configs.run_dir import RunDir
from configs.schema.training import TrainingConfig
from distill.backbones import BACKBONES
from distill.data.manifest import Examples, load_examples
from distill.data.pipelines import (
    LabelReader,
    ViewSource,
    evaluation_images,
)
from distill.losses import Objective, balanced_class_weights
from distill.model_file import describe, save_model
from distill.training.batches import training_batches
from distill.training.epochs import Schedule
from distill.training.feature_student import (
    FeatureGoal,
    FeatureStudent,
    feature_student,
    fit_projection,
    fold_projection,
)
from distill.training.fit import fit
from distill.training.strategies import STRATEGIES, Plan, apply_plan, fit_head

EVALUATION_BATCH = 32
CHECKPOINT = "epoch.npz"
"""The file in the workspace of a step that holds the state of its training."""


@dataclass(frozen=True)
class TrainingJob:
    """One classifier to train, and everything its training depends on.

    Attributes:
        name: of the model: teacher, student or control.
        views: of the examples that it learns from.
        soft_labels: reads the teacher's logits of these views; None trains on labels alone.
        features: what it learns from the teacher's features, which `soft_labels` then reads, too.
    """

    name: str
    config: TrainingConfig
    views: ViewSource
    objective: Objective
    seed: int
    soft_labels: LabelReader | None = None
    features: FeatureGoal | None = None

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
        )


@dataclass(frozen=True)
class TrainingFacts:
    """What the manifest of a trained model says about its training."""

    seconds_to_train: float
    epochs: int
    val_top1: float


def train_classifier(run: RunDir, job: TrainingJob, workspace: Workspace) -> Built:
    """Train and write `<name>/model.keras` and `<name>/history.csv`.

    Returns:
        The files, and what the manifest says about the model.
    """
    start = time.monotonic()
    config, num_classes = job.config, len(job.views.examples.classes)
    keras.utils.set_random_seed(job.seed)
    build = BACKBONES[config.backbone.name]
    model = build(image_size=config.image_size, num_classes=num_classes, **config.backbone.options)
    plan = make_plan(config)
    apply_plan(model, plan)
    student = FeatureStudent(model, model)
    if job.features is not None:
        student = feature_student(model, job.features)
    validation, size = load_examples(run, "validation"), (config.image_size, config.image_size)
    history = fit(
        student.trained,
        classifier=student.classifier,
        train=partial(job.batches, epochs=config.epochs),
        validation=lambda: evaluation_images(validation, size, EVALUATION_BATCH),
        objective=job.objective,
        schedule=make_schedule(
            config, plan, steps_per_epoch=job.views.steps_per_epoch(config.batch_size)
        ),
        checkpoint=workspace.file(CHECKPOINT),
        name=job.name,
        prepare=partial(_fit_last_layers, job, model, student) if plan.head_first else lambda: None,
    )
    if job.features is not None and job.features.head is not None:
        fold_projection(model, student, job.features.head)
    seconds = max(sum(row.seconds for row in history), time.monotonic() - start)
    # With patience the model has the weights of its best epoch, otherwise those of the last.
    result = min(history, key=lambda row: row.val_loss) if config.patience else history[-1]
    facts = TrainingFacts(
        seconds_to_train=round(seconds, 1), epochs=len(history), val_top1=result.val_accuracy
    )
    return save_model(run, job.name, model, history), {
        **to_json(describe(model, config.backbone.name, config.image_size)),
        **to_json(facts),
    }


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
        first_feature = 2 * len(job.views.examples.classes)
        fit_projection(
            student,
            (
                (images, targets[:, first_feature:])
                for images, targets in job.batches(0, 0, epochs=1).as_numpy_iterator()
            ),
            num_batches=job.views.steps_per_epoch(job.config.batch_size),
        )


def class_weights(examples: Examples, config: TrainingConfig) -> tuple[float, ...] | None:
    """The weight of an example of each class; None if all examples weigh the same."""
    if config.class_weights is None:
        return None
    return balanced_class_weights(examples.labels, len(examples.classes))


def weights_input(config: TrainingConfig) -> dict[str, str]:
    """The digest of the weights file that the config names, as an input of a step, if it does."""
    weights = config.backbone.options.get("weights") or ""
    path = Path(weights).expanduser()
    is_file = bool(ending(path)) and path.is_file()  # no file that is called imagenet
    return {"weights": file_sha256(path)} if is_file else {}


def make_plan(config: TrainingConfig) -> Plan:
    """The decisions of the config's strategy for its backbone and weights."""
    weights = config.backbone.options.get("weights")
    strategy = STRATEGIES[config.strategy.name]
    return strategy(
        weights=weights, from_another_network=weights == "lite", **config.strategy.options
    )


def make_schedule(config: TrainingConfig, plan: Plan, *, steps_per_epoch: int) -> Schedule:
    """The schedule of a config; the plan gives the learning rate if the config says auto."""
    is_auto = config.learning_rate == "auto"
    return Schedule(
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        learning_rate=plan.learning_rate if is_auto else float(config.learning_rate),
        weight_decay=config.weight_decay,
        patience=config.patience,
        ema_momentum=config.ema_momentum,
    )
