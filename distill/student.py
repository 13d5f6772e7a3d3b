"""The second training step: the student under its teacher's soft labels, and its control."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.run_dir import RunDir, Step
from configs.schema import Experiment
from distill.classifier import Course, remove_checkpoint, train_classifier
from distill.losses import Objective, distillation_objective, label_objective
from distill.soft_labels import load_soft_labels, soft_labels_step
from distill.teacher import class_weights, shared_views, view_inputs, weights_input

NOT_OF_THE_CONTROL = {"loss", "soft_weight", "control"}


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


def student_step(run: RunDir, experiment: Experiment) -> Step:
    """Train the student on the soft labels."""
    labels = soft_labels_step(run, experiment).manifest.with_suffix(".npy")
    # `control` decides whether there is one beside the student; the student is the same.
    config = experiment.student.model_dump(mode="json", exclude={"control"})
    inputs = {
        **view_inputs(run, experiment),
        "student": config,
        "soft_labels": labels.stem,
        **weights_input(experiment.student),
    }
    return _training_step(run, experiment, "student", inputs, student_objective, labels)


def control_step(run: RunDir, experiment: Experiment) -> Step:
    """Train the same student with the same budget, views and seed on labels alone."""
    config = experiment.student.model_dump(mode="json", exclude=NOT_OF_THE_CONTROL)
    inputs = {
        **view_inputs(run, experiment),
        "student": config,
        "num_views": experiment.soft_labels.num_views,
        **weights_input(experiment.student),
    }

    def objective(run: RunDir, experiment: Experiment) -> Objective:
        config = experiment.student
        return label_objective(config.label_smoothing, class_weights(run, config))

    return _training_step(run, experiment, "control", inputs, objective, None)


def _training_step(
    run: RunDir,
    experiment: Experiment,
    name: str,
    inputs: dict[str, Any],
    objective: Callable[[RunDir, Experiment], Objective],
    labels: Path | None,
) -> Step:
    def build() -> tuple[list[Path], dict[str, Any]]:
        course = Course(
            name=name,
            config=experiment.student,
            source=shared_views(run, experiment, experiment.soft_labels.num_views),
            objective=objective(run, experiment),
            seed=experiment.seed,
            inputs=inputs,
            soft_labels=None if labels is None else load_soft_labels(labels),
        )
        return train_classifier(run, course)

    return Step(
        name=name,
        manifest=run.model_dir(name) / "manifest.json",
        inputs=inputs,
        build=build,
        clean=lambda: remove_checkpoint(run, name),
    )
