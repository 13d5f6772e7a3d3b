"""The student step: train the student on its teacher's soft labels, and its control without."""

import logging
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from configs.resume import Built, Facts, Step, Workspace
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.checks import may_lack_labels
from distill.data.manifest import teacher_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import (
    LabelReader,
    ViewSource,
    labelled_views,
    view_inputs,
)
from distill.feature_losses import facts_of, with_feature_loss
from distill.labels.confidence import views_to_learn
from distill.labels.label_file import (
    feature_statistics,
    num_stored_features,
    standardized_reader,
)
from distill.labels.soft_labels import load_soft_labels, soft_labels_path
from distill.losses import (
    Objective,
    distillation_objective,
    label_objective,
)
from distill.teacher import teacher_head
from distill.trackers.of_run import open_trackers
from distill.training.classifier import join_training, train_classifier
from distill.training.feature_student import FeatureGoal
from distill.training.settings import class_weights, training_inputs, weights_input
from distill.training.strategies.lesson import TrainingJob
from eval.choice.model_to_ship import TrainedModel

log = logging.getLogger("potstill")

ABOUT_OTHERS = {"control", "label_curve", "seeds", "ship"}
"""Settings of the student that say what is trained or shipped beside it."""
NOT_OF_THE_CONTROL = ABOUT_OTHERS | {"loss", "soft_weight", "labelled_share", "feature_loss"}
"""Settings of the student that its control does not depend on."""


def student_objective(run: RunDir, experiment: Experiment) -> Objective:
    """The loss of the experiment on logits and labels, without its feature loss."""
    config = experiment.student
    return distillation_objective(
        config.loss.name,
        config.loss.options,
        soft_weight=config.soft_weight,
        label_smoothing=config.label_smoothing,
        class_weights=class_weights(teacher_examples(run), config),
    )


@dataclass(frozen=True)
class Lessons:
    """What a student or a control learns from.

    Attributes:
        soft_labels: reads the teacher's logits and features of the views; None for a control.
        features: None for logits alone.
    """

    views: ViewSource
    objective: Objective
    soft_labels: LabelReader | None
    features: FeatureGoal | None = None


def lessons(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    model: TrainedModel,
    share: float | None = None,
) -> Lessons:
    """What the student or the control of a run learns from, also when a method fine-tunes it.

    Args:
        share: of all labels, hidden ones included, that a control learns from; None for the labels
            that its student has.
    """
    student, num_views = experiment.student, experiment.soft_labels.num_views
    if model == "control":
        views = labelled_views(
            run, experiment, photos, num_views, "shown" if share is None else "all"
        )
        if share is not None:
            views = replace(views, examples=views.examples.share_of_each_class(share))
        views = replace(views, balanced=student.sampling == "balanced")
        weights = class_weights(views.examples, student)
        return Lessons(views, label_objective(student.label_smoothing, weights), None)
    return Lessons(
        views_to_learn(run, experiment, photos),
        student_objective(run, experiment),
        load_soft_labels(run, experiment),
    )


def with_features(run: RunDir, experiment: Experiment, of_logits: Lessons) -> Lessons:
    """The lessons of a student that also learns from its teacher's features, if the config says so.

    Its methods learn from the logits alone: they work on the student as it was saved.
    """
    choice = experiment.student.feature_loss
    if choice is None:
        return of_logits
    path = soft_labels_path(run, experiment)
    num_features = num_stored_features(path)
    soft_labels = load_soft_labels(run, experiment, num_features=num_features)
    projection, head = facts_of(choice.name).projection, None
    if projection is not None:
        mean, deviation = feature_statistics(path)
        soft_labels = standardized_reader(soft_labels, mean, deviation)
        if projection == "kept":
            head = teacher_head(run, experiment).on_standardized(mean, deviation)
    examples = teacher_examples(run)
    objective = with_feature_loss(
        of_logits.objective,
        choice.name,
        choice.options,
        num_classes=len(examples.classes),
        class_weights=class_weights(examples, experiment.student),
    )
    goal = FeatureGoal(choice.name, num_features, head)
    return Lessons(of_logits.views, objective, soft_labels, goal)


def student_step(run: RunDir, experiment: Experiment, photos: PhotoStore, number: int = 1) -> Step:
    """Train the student on the soft labels; `number` counts its seeds from 1."""
    inputs = learning_inputs(run, experiment)
    return _training_step(run, experiment, photos, "student", inputs, number)


def learning_inputs(
    run: RunDir, experiment: Experiment, *, exclude: AbstractSet[str] = frozenset()
) -> Facts:
    """What learning from the soft labels depends on, as inputs of a step.

    Args:
        exclude: further settings of the student on which the step does not depend.
    """
    student = experiment.student
    # Runs of before there were these keys are not trained again.
    later_keys = ("labelled_share", "feature_loss")
    unset = {key for key in later_keys if getattr(student, key) is None}
    exclude = ABOUT_OTHERS | exclude | unset
    return {
        "student": training_inputs(student, exclude=exclude),
        "soft_labels": soft_labels_path(run, experiment).stem,
        **_min_confidence(experiment),
    }


def _min_confidence(experiment: Experiment) -> Facts:
    """soft_labels.min_confidence as an input of a step, if it can leave photos out."""
    min_confidence = experiment.soft_labels.min_confidence
    can_leave_out = min_confidence > 0 and may_lack_labels(experiment)
    return {"min_confidence": min_confidence} if can_leave_out else {}


def control_step(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    number: int = 1,
    share: float | None = None,
) -> Step:
    """Train the same student with the same budget, views and seed on labels alone.

    If the student also has photos without labels, the control repeats the labelled ones, so that
    it makes as many updates.

    Args:
        share: of all labels, for a point of the label curve; see `lessons`.
    """
    inputs = {
        "student": training_inputs(experiment.student, exclude=NOT_OF_THE_CONTROL),
        "num_views": experiment.soft_labels.num_views,
    }
    if min_confidence := _min_confidence(experiment):
        # They decide how many photos the student learns from, and so its number of updates.
        inputs |= {"soft_labels": soft_labels_path(run, experiment).stem, **min_confidence}
    if share is not None:
        inputs["share"] = share
    return _training_step(run, experiment, photos, "control", inputs, number, share)


def seed_name(name: str, number: int) -> str:
    """student, student-2, student-3 ..."""
    return name if number == 1 else f"{name}-{number}"


def share_name(share: float) -> str:
    """The name of the control on a share of all labels: control-at-0.25."""
    return f"control-at-{share:g}"


def _training_step(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    model: TrainedModel,
    inputs: Facts,
    number: int,
    share: float | None = None,
) -> Step:
    name = seed_name(model, number) if share is None else share_name(share)
    inputs = {
        **view_inputs(run, experiment),
        **inputs,
        **weights_input(experiment.student),
        "number": number,
    }

    def job() -> TrainingJob:
        config, of_student = experiment.student, views_to_learn(run, experiment, photos)
        learned = lessons(run, experiment, photos, model, share)
        if model == "student":
            learned = with_features(run, experiment, learned)
        # As many updates with fewer photos.
        num_updates = config.epochs * of_student.steps_per_epoch(config.batch_size)
        epochs = max(round(num_updates / learned.views.steps_per_epoch(config.batch_size)), 1)
        return TrainingJob(
            name=name,
            config=config.model_copy(update={"epochs": epochs}),
            # Every seed has the same views, because the soft labels belong to them.
            views=learned.views,
            objective=learned.objective,
            seed=experiment.seed + number - 1,
            soft_labels=learned.soft_labels,
            features=learned.features,
            devices=experiment.distribution.devices,
        )

    def build(workspace: Workspace) -> Built:
        learning = job()
        left_out = _left_out(learning.views, experiment, say=number == 1)
        with open_trackers(run, experiment) as trackers:
            paths, facts = train_classifier(run, learning, workspace, trackers)
        num_labels = len(learning.views.examples.with_labels())
        return paths, {**facts, **left_out, "num_labels": num_labels}

    def join(workspace: Workspace) -> None:
        join_training(run, job(), workspace)

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
        join=join,
    )


def _left_out(views: ViewSource, experiment: Experiment, *, say: bool) -> Facts:
    """How many photos without labels a student leaves out, for its manifest.

    A control has none to leave out, and its manifest says nothing of them.

    Args:
        say: also log it.
    """
    num_unlabelled = int((views.examples.labels < 0).sum())
    num_left_out = len(views.examples) - len(views.training_rows)
    if num_left_out and say:
        log.info(
            "%d of %d photos without labels are left out of the student's training, because the "
            "teacher's confidence in them is below soft_labels.min_confidence (%g)",
            num_left_out,
            num_unlabelled,
            experiment.soft_labels.min_confidence,
        )
    return {"num_left_out": num_left_out} if num_unlabelled else {}
