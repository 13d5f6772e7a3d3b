"""The second training step: the student under its teacher's soft labels, and its control."""

from collections.abc import Callable
from typing import Any

from configs.errors import UserError
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.inputs import ViewSource
from distill.data.run_views import (
    labelled_views,
    taught_examples,
    taught_views,
    view_inputs,
)
from distill.labels.label_file import Reader
from distill.labels.soft_labels import load_soft_labels, soft_labels_step
from distill.losses import (
    Objective,
    distillation_objective,
    label_objective,
    needs_labels,
)
from distill.training.classifier import (
    Course,
    class_weights,
    train_classifier,
    weights_input,
)

NOT_OF_THE_CONTROL = {"loss", "soft_weight", "control", "seeds"}


def check_loss(experiment: Experiment) -> None:
    """Look whether the loss can learn from all photos, before anything is trained.

    Raises:
        UserError: it asks for labels, and some photos have none.
    """
    loss = experiment.student.loss.name
    if experiment.data.unlabelled is not None and needs_labels(loss):
        raise UserError(
            f"student.loss {loss} needs the label of every photo, and data.unlabelled adds photos "
            "without. Leave one of the two out; kd and dist need no labels."
        )


def student_objective(run: RunDir, experiment: Experiment) -> Objective:
    """The distillation loss of the experiment; whatever fine-tunes a student uses it too."""
    config = experiment.student
    return distillation_objective(
        config.loss.name,
        config.loss.options,
        soft_weight=config.soft_weight,
        label_smoothing=config.label_smoothing,
        class_weights=class_weights(run, config),
    )


def student_step(run: RunDir, experiment: Experiment, number: int = 1) -> Step:
    """Train the student on the soft labels; `number` is that of its seed."""
    labels = soft_labels_step(run, experiment).manifest
    # What decides what is beside the student leaves the student as it is.
    config = experiment.student.model_dump(mode="json", exclude={"control", "seeds"})
    return _training_step(
        run,
        experiment,
        seed_name("student", number),
        {"student": config, "soft_labels": labels.stem},
        objective=lambda: student_objective(run, experiment),
        source=lambda: taught_views(run, experiment),
        soft_labels=lambda: load_soft_labels(run, experiment),
        number=number,
    )


def control_step(run: RunDir, experiment: Experiment, number: int = 1) -> Step:
    """Train the same student with the same budget, views and seed on labels alone.

    Where the student has photos without labels too, the control sees its own more often.
    """
    student, num_views = experiment.student, experiment.soft_labels.num_views
    config = student.model_dump(mode="json", exclude=NOT_OF_THE_CONTROL)
    return _training_step(
        run,
        experiment,
        seed_name("control", number),
        {"student": config, "num_views": num_views},
        objective=lambda: label_objective(student.label_smoothing, class_weights(run, student)),
        source=lambda: labelled_views(run, experiment, num_views),
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
    source: Callable[[], ViewSource],
    soft_labels: Callable[[], Reader | None],
    number: int,
) -> Step:
    inputs = {
        **view_inputs(run, experiment),
        **inputs,
        **weights_input(experiment.student),
        "number": number,
    }

    def build(workspace: Workspace) -> Built:
        views, config = source(), experiment.student
        # As many steps with fewer photos.
        epochs = round(config.epochs * len(taught_examples(run)) / len(views.examples))
        course = Course(
            name=name,
            config=config.model_copy(update={"epochs": epochs}),
            # Views keep the seed of the run: they are what the labels are of.
            source=views,
            objective=objective(),
            seed=experiment.seed + number - 1,
            soft_labels=soft_labels(),
        )
        return train_classifier(run, course, workspace)

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
    )
