"""The step that makes soft labels: the teacher's logits for every view of every training photo.

They are logits, never probabilities, and never divided by a temperature. So another temperature,
weight or loss needs no new labels. The features that `student.feature_loss` reads follow them.
"""

from pathlib import Path
from typing import Any

from configs.artifacts import digest
from configs.errors import UserError
from configs.remote.cluster import Cluster
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import Examples, student_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import LabelReader, student_views, view_inputs
from distill.feature_losses import facts_of
from distill.features import FeatureKind
from distill.labels.label_file import LabelFormat, label_reader
from distill.labels.tasks import label_on
from distill.labels.view_logits import label_views
from distill.teacher import load_teachers, teacher_digest


def soft_labels_step(
    run: RunDir, experiment: Experiment, photos: PhotoStore, cluster: Cluster | None = None
) -> Step:
    """Label every view of every training photo with the teacher's logits.

    Args:
        cluster: labels the chunks; None for this process. The file is the same.
    """
    path = soft_labels_path(run, experiment)

    def build(workspace: Workspace) -> Built:
        rows = range(len(student_examples(run)))
        return write_labels(run, experiment, photos, path, rows, workspace, cluster)

    inputs = soft_label_inputs(run, experiment)
    return Step("soft labels", path.with_suffix(".json"), inputs, build)


def soft_labels_path(run: RunDir, experiment: Experiment) -> Path:
    """The file of the soft labels that belong to this config."""
    return run.soft_labels(digest(soft_label_inputs(run, experiment)))


def soft_label_inputs(run: RunDir, experiment: Experiment) -> dict[str, Any]:
    """Everything that the soft labels depend on, as inputs of a step."""
    # Photos are left out of the training, not of the file.
    config = experiment.soft_labels.model_dump(mode="json", exclude={"min_confidence"})
    features = stored_features(experiment)
    if features is not None:
        config["features"] = features
    return {**view_inputs(run, experiment), "teacher": teacher_digest(run), **config}


def stored_features(experiment: Experiment) -> FeatureKind | None:
    """The features of the teacher that the label file has to hold besides the logits."""
    loss = experiment.student.feature_loss
    return None if loss is None else facts_of(loss.name).reads


def write_labels(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    path: Path,
    rows: range,
    workspace: Workspace,
    cluster: Cluster | None = None,
) -> Built:
    """Label the photos of these rows; returns the file, and what its manifest says."""
    view_source = student_views(run, experiment, photos)
    if not workspace.has_moved("labels.npy", path):
        features = stored_features(experiment)
        teachers = load_teachers(run, experiment, features)
        label_format = soft_label_format(
            experiment, view_source.examples, num_features=teachers[0].num_features
        )
        unfinished = workspace.file("labels.npy")
        if cluster is None:
            label_views(teachers, view_source, unfinished, label_format, rows=rows)
        else:
            label_on(
                cluster, run, experiment, unfinished, label_format, rows=rows, features=features
            )
        workspace.move("labels.npy", path)
    return [path], {"num_examples": len(rows), "num_views": view_source.num_views}


def load_soft_labels(run: RunDir, experiment: Experiment, *, num_features: int = 0) -> LabelReader:
    """The finished labels of a run, mapped from disk.

    Args:
        num_features: as many as the file holds, or 0 to leave them out.
    """
    label_format = soft_label_format(experiment, student_examples(run), num_features=num_features)
    return label_reader(soft_labels_path(run, experiment), label_format)


def soft_label_format(
    experiment: Experiment, examples: Examples, *, num_features: int = 0
) -> LabelFormat:
    """The form in which the config stores logits and features.

    Raises:
        UserError: there are too few classes for `soft_labels.top_k`.
    """
    top_k, num_classes = experiment.soft_labels.top_k, len(examples.classes)
    if top_k is not None and top_k >= num_classes:
        raise UserError(
            f"soft_labels.top_k is {top_k}, and there are {num_classes} classes. Expected fewer "
            "than there are classes. Set it to null to store all logits."
        )
    return LabelFormat(num_classes, top_k, num_features)
