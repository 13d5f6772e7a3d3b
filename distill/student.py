"""The student step: train the student on its teacher's soft labels, and its control without."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configs.artifacts import ending
from configs.errors import UserError
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from configs.schema import Experiment, GivenTeacherConfig
from distill.data.manifest import student_examples, teacher_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import (
    LabelReader,
    ViewSource,
    labelled_views,
    student_views,
    view_inputs,
)
from distill.feature_losses import facts_of, with_feature_loss
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
    needs_labels,
)
from distill.teacher import teacher_head
from distill.training.classifier import (
    TrainingJob,
    class_weights,
    train_classifier,
    weights_input,
)
from distill.training.feature_student import FeatureGoal

NOT_OF_THE_CONTROL = {"loss", "soft_weight", "feature_loss", "control", "seeds"}
"""Settings of the student that its control does not depend on."""
STRIDE = 32
"""Pixels of an image, along a side, that become one place of a backbone's last feature map."""


@dataclass(frozen=True)
class Lesson:
    """What a student or its control learns from, besides the views of the photos.

    Attributes:
        soft_labels: None for labels alone.
        features: None for logits alone.
    """

    objective: Objective
    soft_labels: LabelReader | None = None
    features: FeatureGoal | None = None


def check_loss(experiment: Experiment) -> None:
    """Check that the loss can learn from all photos, before anything is trained.

    Raises:
        UserError: the loss needs labels, and some photos have none.
    """
    loss = experiment.student.loss.name
    for key in ("unlabelled", "labels_per_class"):
        if getattr(experiment.data, key) is not None and needs_labels(loss):
            raise UserError(
                f"student.loss {loss} needs the label of every photo, and with data.{key} some "
                "have none. Leave one of the two out; kd and dist need no labels."
            )
    if experiment.student.feature_loss is not None:
        _check_feature_loss(experiment, experiment.student.feature_loss.name)


def _check_feature_loss(experiment: Experiment, name: str) -> None:
    """Raise UserError if the teacher or the images cannot give the features."""
    advice = "Set student.feature_loss to null to learn from the logits alone."
    teacher = experiment.teacher
    if isinstance(teacher, GivenTeacherConfig):
        names = ", ".join(str(file.path) for file in teacher.files)
        if len(teacher.files) > 1:
            raise UserError(
                f"student.feature_loss {name} needs the features of one teacher, and teacher.files "
                f"names {len(teacher.files)} ({names}). Keep one of them. {advice}"
            )
        if ending(teacher.files[0].path) not in (".keras", ".h5"):
            raise UserError(
                f"student.feature_loss {name} needs the features of the teacher, and {names} "
                "returns nothing but its answers. Expected the .keras file of the model. "
                f"{advice}"
            )
    size = min(teacher.image_size, experiment.student.image_size)
    if facts_of(name).reads == "attention" and size <= STRIDE:
        raise UserError(
            f"student.feature_loss {name} compares where two networks look, and of an image_size "
            f"of {size} a backbone leaves one place. Expected 64 or more for teacher and student. "
            "Enlarge the images, or choose hint."
        )


def student_objective(run: RunDir, experiment: Experiment) -> Objective:
    """The loss of the experiment on logits and labels, without its feature loss.

    Every fine-tuning of the student uses it.
    """
    config = experiment.student
    return distillation_objective(
        config.loss.name,
        config.loss.options,
        soft_weight=config.soft_weight,
        label_smoothing=config.label_smoothing,
        class_weights=class_weights(teacher_examples(run), config),
    )


def student_step(run: RunDir, experiment: Experiment, photos: PhotoStore, number: int = 1) -> Step:
    """Train the student on the soft labels; `number` counts its seeds from 1."""
    # Whether there is a control, or another seed, does not change this student. Students of runs
    # before there were feature losses are not trained again.
    unset = {"feature_loss"} if experiment.student.feature_loss is None else set()
    config = experiment.student.model_dump(mode="json", exclude={"control", "seeds"} | unset)
    return _training_step(
        run,
        experiment,
        seed_name("student", number),
        {"student": config, "soft_labels": soft_labels_path(run, experiment).stem},
        lesson=lambda: _lesson_of_the_teacher(run, experiment),
        views=lambda: student_views(run, experiment, photos),
        number=number,
    )


def _lesson_of_the_teacher(run: RunDir, experiment: Experiment) -> Lesson:
    objective, choice = student_objective(run, experiment), experiment.student.feature_loss
    if choice is None:
        return Lesson(objective, load_soft_labels(run, experiment))
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
        objective,
        choice.name,
        choice.options,
        num_classes=len(examples.classes),
        class_weights=class_weights(examples, experiment.student),
    )
    return Lesson(objective, soft_labels, FeatureGoal(choice.name, num_features, head))


def control_step(run: RunDir, experiment: Experiment, photos: PhotoStore, number: int = 1) -> Step:
    """Train the same student with the same budget, views and seed on labels alone.

    If the student also has photos without labels, the control repeats the labelled ones, so that
    it makes as many updates.
    """
    student, num_views = experiment.student, experiment.soft_labels.num_views
    config = student.model_dump(mode="json", exclude=NOT_OF_THE_CONTROL)
    return _training_step(
        run,
        experiment,
        seed_name("control", number),
        {"student": config, "num_views": num_views},
        lesson=lambda: Lesson(
            label_objective(student.label_smoothing, class_weights(teacher_examples(run), student))
        ),
        views=lambda: labelled_views(run, experiment, photos, num_views),
        number=number,
    )


def seed_name(name: str, number: int) -> str:
    """student, student-2, student-3 ..."""
    return name if number == 1 else f"{name}-{number}"


def _training_step(
    run: RunDir,
    experiment: Experiment,
    name: str,
    inputs: dict[str, Any],
    *,
    lesson: Callable[[], Lesson],
    views: Callable[[], ViewSource],
    number: int,
) -> Step:
    inputs = {
        **view_inputs(run, experiment),
        **inputs,
        **weights_input(experiment.student),
        "number": number,
    }

    def build(workspace: Workspace) -> Built:
        own_views, own_lesson, config = views(), lesson(), experiment.student
        # As many updates with fewer photos.
        epochs = round(config.epochs * len(student_examples(run)) / len(own_views.examples))
        job = TrainingJob(
            name=name,
            config=config.model_copy(update={"epochs": epochs}),
            # Every seed has the same views, because the soft labels belong to them.
            views=own_views,
            objective=own_lesson.objective,
            seed=experiment.seed + number - 1,
            soft_labels=own_lesson.soft_labels,
            features=own_lesson.features,
        )
        return train_classifier(run, job, workspace)

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
    )
