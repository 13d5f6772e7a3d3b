"""The first training step: the teacher."""

from pathlib import Path

from configs.run_dir import RunDir, Step, file_sha256
from configs.schema import Experiment, TrainingConfig
from distill.classifier import Course, remove_checkpoint, train_classifier
from distill.data import load_examples
from distill.inputs import ViewSource, view_source
from distill.losses import balanced_class_weights, label_objective


def shared_views(run: RunDir, experiment: Experiment, num_views: int) -> ViewSource:
    """The views of the training photos, the same for every model of the run."""
    return view_source(
        load_examples(run, "train"),
        views=experiment.views,
        num_views=num_views,
        seed=experiment.seed,
        largest_image=max(experiment.teacher.image_size, experiment.student.image_size),
    )


def view_inputs(run: RunDir, experiment: Experiment) -> dict[str, object]:
    """What the views depend on."""
    return {
        "manifest": file_sha256(run.photos_manifest),
        "views": experiment.views.model_dump(mode="json"),
        "seed": experiment.seed,
        "largest_image": max(experiment.teacher.image_size, experiment.student.image_size),
    }


def class_weights(run: RunDir, config: TrainingConfig) -> tuple[float, ...] | None:
    """What an example of each class counts in the training of a model."""
    if config.class_weights is None:
        return None
    examples = load_examples(run, "train")
    return balanced_class_weights(examples.labels, len(examples.classes))


def weights_input(config: TrainingConfig) -> dict[str, str]:
    """The digest of the file that a backbone's weights come from, where they come from one."""
    weights = config.backbone.options.get("weights") or ""
    path = Path(weights).expanduser()
    is_file = path.suffix in (".keras", ".h5") and path.is_file()
    return {"weights": file_sha256(path)} if is_file else {}


def teacher_step(run: RunDir, experiment: Experiment) -> Step:
    """Fine-tune the teacher on labels; a new view in every epoch."""
    config = experiment.teacher
    inputs = {
        **view_inputs(run, experiment),
        "teacher": config.model_dump(mode="json"),
        **weights_input(config),
    }
    return Step(
        name="teacher",
        manifest=run.model_dir("teacher") / "manifest.json",
        inputs=inputs,
        build=lambda: train_classifier(
            run,
            Course(
                name="teacher",
                config=config,
                source=shared_views(run, experiment, num_views=config.epochs),
                objective=label_objective(config.label_smoothing, class_weights(run, config)),
                seed=experiment.seed,
                inputs=inputs,
            ),
        ),
        clean=lambda: remove_checkpoint(run, "teacher"),
    )
