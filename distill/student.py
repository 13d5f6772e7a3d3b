"""The student step: train the student on its teacher's soft labels, and its control without."""

from dataclasses import dataclass

from configs.errors import UserError
from configs.resume import Built, Facts, Step, Workspace
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
from eval.choice.model_to_ship import TrainedModel

NOT_OF_THE_CONTROL = {"loss", "soft_weight", "control", "seeds", "ship"}
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


@dataclass(frozen=True)
class Lessons:
    """What a student or a control learns from.

    Attributes:
        soft_labels: reads the teacher's logits of the views; None for a control.
    """

    views: ViewSource
    objective: Objective
    soft_labels: LabelReader | None


def lessons(
    run: RunDir, experiment: Experiment, photos: PhotoStore, model: TrainedModel
) -> Lessons:
    """What the student or the control of a run learns from, also when a method fine-tunes it."""
    student = experiment.student
    if model == "control":
        return Lessons(
            labelled_views(run, experiment, photos, experiment.soft_labels.num_views),
            label_objective(student.label_smoothing, class_weights(teacher_examples(run), student)),
            None,
        )
    return Lessons(
        student_views(run, experiment, photos),
        student_objective(run, experiment),
        load_soft_labels(run, experiment),
    )


def student_step(run: RunDir, experiment: Experiment, photos: PhotoStore, number: int = 1) -> Step:
    """Train the student on the soft labels; `number` counts its seeds from 1."""
    # Whether there is a control, or another seed, does not change this student.
    config = experiment.student.model_dump(mode="json", exclude={"control", "seeds", "ship"})
    inputs = {"student": config, "soft_labels": soft_labels_path(run, experiment).stem}
    return _training_step(run, experiment, photos, "student", inputs, number)


def control_step(run: RunDir, experiment: Experiment, photos: PhotoStore, number: int = 1) -> Step:
    """Train the same student with the same budget, views and seed on labels alone.

    If the student also has photos without labels, the control repeats the labelled ones, so that
    it makes as many updates.
    """
    config = experiment.student.model_dump(mode="json", exclude=NOT_OF_THE_CONTROL)
    inputs = {"student": config, "num_views": experiment.soft_labels.num_views}
    return _training_step(run, experiment, photos, "control", inputs, number)


def seed_name(name: str, number: int) -> str:
    """student, student-2, student-3 ..."""
    return name if number == 1 else f"{name}-{number}"


def _training_step(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    model: TrainedModel,
    inputs: Facts,
    number: int,
) -> Step:
    name = seed_name(model, number)
    inputs = {
        **view_inputs(run, experiment),
        **inputs,
        **weights_input(experiment.student),
        "number": number,
    }

    def build(workspace: Workspace) -> Built:
        learned, config = lessons(run, experiment, photos, model), experiment.student
        # As many updates with fewer photos.
        epochs = round(config.epochs * len(student_examples(run)) / len(learned.views.examples))
        job = TrainingJob(
            name=name,
            config=config.model_copy(update={"epochs": epochs}),
            # Every seed has the same views, because the soft labels belong to them.
            views=learned.views,
            objective=learned.objective,
            seed=experiment.seed + number - 1,
            soft_labels=learned.soft_labels,
        )
        return train_classifier(run, job, workspace)

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
    )
