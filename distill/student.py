"""The student step: train the student on its teacher's soft labels, and its control without."""

from collections.abc import Callable
from typing import Any

from configs.errors import UserError
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import student_examples, teacher_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import (
    LabelReader,
    ViewSource,
    labelled_views,
    student_views,
    view_inputs,
)
from distill.labels.soft_labels import load_soft_labels, soft_labels_path
from distill.losses import (
    Objective,
    distillation_objective,
    label_objective,
    needs_labels,
)
from distill.training.classifier import (
    TrainingJob,
    class_weights,
    train_classifier,
    weights_input,
)

NOT_OF_THE_CONTROL = {"loss", "soft_weight", "control", "seeds"}
"""Settings of the student that its control does not depend on."""


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


def student_objective(run: RunDir, experiment: Experiment) -> Objective:
    """The distillation loss of the experiment, which every fine-tuning of the student uses, too."""
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
    # Whether there is a control, or another seed, does not change this student.
    config = experiment.student.model_dump(mode="json", exclude={"control", "seeds"})
    return _training_step(
        run,
        experiment,
        seed_name("student", number),
        {"student": config, "soft_labels": soft_labels_path(run, experiment).stem},
        objective=lambda: student_objective(run, experiment),
        views=lambda: student_views(run, experiment, photos),
        soft_labels=lambda: load_soft_labels(run, experiment),
        number=number,
    )


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
        objective=lambda: label_objective(
            student.label_smoothing, class_weights(teacher_examples(run), student)
        ),
        views=lambda: labelled_views(run, experiment, photos, num_views),
        soft_labels=lambda: None,
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
    objective: Callable[[], Objective],
    views: Callable[[], ViewSource],
    soft_labels: Callable[[], LabelReader | None],
    number: int,
) -> Step:
    inputs = {
        **view_inputs(run, experiment),
        **inputs,
        **weights_input(experiment.student),
        "number": number,
    }

    def build(workspace: Workspace) -> Built:
        own_views, config = views(), experiment.student
        # As many updates with fewer photos.
        epochs = round(config.epochs * len(student_examples(run)) / len(own_views.examples))
        job = TrainingJob(
            name=name,
            config=config.model_copy(update={"epochs": epochs}),
            # Every seed has the same views, because the soft labels belong to them.
            views=own_views,
            objective=objective(),
            seed=experiment.seed + number - 1,
            soft_labels=soft_labels(),
        )
        return train_classifier(run, job, workspace)

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
    )
