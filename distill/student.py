"""The student step: train the student on its teacher's soft labels, and its control without."""

import logging
from dataclasses import dataclass

from configs.artifacts import read_json
from configs.errors import UserError
from configs.resume import Built, Facts, Step, Workspace
from configs.run_dir import RunDir
from configs.schema import Experiment, SoftLabelsConfig
from distill.data.manifest import teacher_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import (
    LabelReader,
    ViewSource,
    labelled_views,
    view_inputs,
)
from distill.labels.confidence import views_to_learn
from distill.labels.soft_labels import load_soft_labels, soft_labels_path
from distill.losses import (
    LOSSES,
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

log = logging.getLogger("potstill")

NOT_OF_THE_CONTROL = {"loss", "soft_weight", "labelled_share", "control", "seeds", "ship"}
"""Settings of the student that its control does not depend on."""


def check_loss(experiment: Experiment) -> None:
    """Check that the loss can learn from all photos, before anything is trained.

    Raises:
        UserError: the loss needs labels, and some photos have none.
    """
    loss = experiment.student.loss.name
    *names, last = [name for name in LOSSES.names() if not needs_labels(name)]
    for key in ("unlabelled", "labels_per_class"):
        if getattr(experiment.data, key) is not None and needs_labels(loss):
            raise UserError(
                f"student.loss {loss} needs the label of every photo, and with data.{key} some "
                "have none. Leave one of the two out; "
                f"{', '.join(names)} and {last} need no labels."
            )


def check_unlabelled(experiment: Experiment) -> None:
    """Check that what the config says of photos without labels fits, before anything is trained.

    Raises:
        UserError: a setting has no effect without such photos, or a batch is too small to mix.
    """
    student = experiment.student
    if student.labelled_share is not None and student.batch_size < 2:
        raise UserError(
            f"student.batch_size is {student.batch_size}, and with student.labelled_share every "
            "batch has photos of two kinds. Expected 2 or more."
        )
    keys = _of_unlabelled(experiment)
    if keys and not _may_lack_labels(experiment):
        raise UserError(
            f"{keys[0]} has no effect, because all photos have labels. Add a folder of photos "
            "without labels (--set data.unlabelled=FOLDER), or remove the key."
        )


def check_photos(run: RunDir, experiment: Experiment) -> None:
    """Check that there are photos without labels, if the config says something of them.

    Raises:
        UserError: a setting has no effect, because there are none.
    """
    keys = _of_unlabelled(experiment)
    if keys and not read_json(run.photos_manifest.with_suffix(".json"))["num_unlabelled"]:
        raise UserError(
            f"{keys[0]} has no effect, because no photo of the run is without a label. Add photos "
            "to data.unlabelled, lower data.labels_per_class, or remove the key."
        )


def _of_unlabelled(experiment: Experiment) -> list[str]:
    """The settings that differ from their defaults and need photos without labels."""
    keys = []
    if experiment.student.labelled_share is not None:
        keys.append("student.labelled_share")
    # The stored config of a run holds the default, whether it has such photos or not.
    if experiment.soft_labels.min_confidence > SoftLabelsConfig().min_confidence:
        keys.append("soft_labels.min_confidence")
    return keys


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
        views_to_learn(run, experiment, photos),
        student_objective(run, experiment),
        load_soft_labels(run, experiment),
    )


def student_step(run: RunDir, experiment: Experiment, photos: PhotoStore, number: int = 1) -> Step:
    """Train the student on the soft labels; `number` counts its seeds from 1."""
    # Whether there is a control, or another seed, does not change this student.
    inputs = learning_inputs(run, experiment, exclude={"control", "seeds", "ship"})
    return _training_step(run, experiment, photos, "student", inputs, number)


def learning_inputs(run: RunDir, experiment: Experiment, *, exclude: set[str]) -> Facts:
    """What learning from the soft labels depends on, as inputs of a step.

    Args:
        exclude: settings of the student on which the step does not depend.
    """
    student = experiment.student
    # Runs of before there were these keys are not trained again.
    exclude = exclude | ({"labelled_share"} if student.labelled_share is None else set())
    return {
        "student": student.model_dump(mode="json", exclude=exclude),
        "soft_labels": soft_labels_path(run, experiment).stem,
        **_min_confidence(experiment),
    }


def _min_confidence(experiment: Experiment) -> Facts:
    """soft_labels.min_confidence as an input of a step, if it can leave photos out."""
    min_confidence = experiment.soft_labels.min_confidence
    can_leave_out = min_confidence > 0 and _may_lack_labels(experiment)
    return {"min_confidence": min_confidence} if can_leave_out else {}


def _may_lack_labels(experiment: Experiment) -> bool:
    data = experiment.data
    return data.unlabelled is not None or data.labels_per_class is not None


def control_step(run: RunDir, experiment: Experiment, photos: PhotoStore, number: int = 1) -> Step:
    """Train the same student with the same budget, views and seed on labels alone.

    If the student also has photos without labels, the control repeats the labelled ones, so that
    it makes as many updates.
    """
    inputs = {
        "student": experiment.student.model_dump(mode="json", exclude=NOT_OF_THE_CONTROL),
        "num_views": experiment.soft_labels.num_views,
    }
    if min_confidence := _min_confidence(experiment):
        # They decide how many photos the student learns from, and so its number of updates.
        inputs |= {"soft_labels": soft_labels_path(run, experiment).stem, **min_confidence}
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
        config, of_student = experiment.student, views_to_learn(run, experiment, photos)
        learned = lessons(run, experiment, photos, model)
        # As many updates with fewer photos.
        num_updates = config.epochs * of_student.steps_per_epoch(config.batch_size)
        epochs = max(round(num_updates / learned.views.steps_per_epoch(config.batch_size)), 1)
        job = TrainingJob(
            name=name,
            config=config.model_copy(update={"epochs": epochs}),
            # Every seed has the same views, because the soft labels belong to them.
            views=learned.views,
            objective=learned.objective,
            seed=experiment.seed + number - 1,
            soft_labels=learned.soft_labels,
        )
        left_out = _left_out(learned.views, experiment, say=number == 1)
        paths, facts = train_classifier(run, job, workspace)
        return paths, {**facts, **left_out}

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
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
