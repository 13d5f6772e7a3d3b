"""What a config must hold before anything is trained: losses and labels that fit each other."""

import os

from configs.artifacts import ending, read_json
from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.training import GivenTeacherConfig, SoftLabelsConfig, TrainingConfig
from distill.backbones.entry import check_image_size
from distill.feature_losses import facts_of
from distill.losses import LOSSES, needs_labels
from distill.training.distribution.devices import (
    check_batch,
    find_replicas,
    suggest_devices,
)
from distill.training.distribution.launch import ALL_IS_TRAINED
from distill.training.settings import make_plan

ALL_LABELLED = ("folder", "archive", "numpy", "coco", "digits")
"""Sources whose photos all have labels. In the others, an empty label is none."""
STRIDE = 32
"""Pixels of an image, along a side, that become one place of a backbone's last feature map."""


def check_loss(experiment: Experiment) -> None:
    """Check that the loss can learn from all photos, before anything is trained.

    Raises:
        UserError: the loss needs labels, and some photos have none.
    """
    for key in ("unlabelled", "labels_per_class"):
        if getattr(experiment.data, key) is not None:
            _check_loss_needs_no_labels(
                experiment, f"with data.{key} some have none. Leave one of the two out"
            )
    if experiment.student.feature_loss is not None:
        _check_feature_loss(experiment, experiment.student.feature_loss.name)


def _check_loss_needs_no_labels(experiment: Experiment, why: str) -> None:
    loss = experiment.student.loss.name
    *names, last = [name for name in LOSSES.names() if not needs_labels(name)]
    if needs_labels(loss):
        raise UserError(
            f"student.loss {loss} needs the label of every photo, and {why}; "
            f"{', '.join(names)} and {last} need no labels."
        )


def check_image_sizes(experiment: Experiment) -> None:
    """Check that the images are large enough for the backbones, before anything is trained.

    Raises:
        UserError: an image is too small.
    """
    for section in ("teacher", "student"):
        config = getattr(experiment, section)
        if not isinstance(config, GivenTeacherConfig):
            try:
                check_image_size(config.backbone.name, config.image_size)
            except UserError as error:
                raise UserError(f"{section}.{error}") from None


def check_strategies(experiment: Experiment) -> None:
    """Check that the options of both strategies fit each other, before anything is trained.

    Raises:
        UserError: they do not.
    """
    for name in ("teacher", "student"):
        config = getattr(experiment, name)
        if isinstance(config, TrainingConfig):
            try:
                make_plan(config, num_photos=0)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None


def _check_feature_loss(experiment: Experiment, name: str) -> None:
    """Raise UserError if the teacher or the images cannot give the features."""
    advice = "Set student.feature_loss to null to learn from the logits alone."
    if experiment.student.strategy.name == "head" and facts_of(name).projection != "kept":
        raise UserError(
            f"student.feature_loss {name} changes the features of the student, and with "
            f"student.strategy head they stay as they are. Choose another strategy. {advice}"
        )
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


def check_devices(experiment: Experiment) -> None:
    """Check that the devices are there and can share the batches, before anything is trained.

    Raises:
        UserError: there are fewer devices, or a batch cannot be split evenly.
    """
    if ALL_IS_TRAINED in os.environ:
        return
    if experiment.distribution.devices == 1:
        suggest_devices()
    replicas = find_replicas(experiment.distribution.devices)
    if replicas is None:
        return
    for section in ("teacher", "student"):
        config = getattr(experiment, section)
        if isinstance(config, TrainingConfig):
            check_batch(section, config.batch_size, replicas)


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
    if keys and not may_lack_labels(experiment):
        raise UserError(
            f"{keys[0]} has no effect, because all photos have labels. Add a folder of photos "
            "without labels (--set data.unlabelled=FOLDER), or remove the key."
        )


def check_photos(run: RunDir, experiment: Experiment) -> None:
    """Check that config and photos fit, now that it is known which photos have no label.

    Raises:
        UserError: a setting has no effect, because all photos have labels; or the loss needs the
            labels of all, and some have none.
    """
    num_unlabelled = read_json(run.photos_manifest.with_suffix(".json"))["num_unlabelled"]
    keys = _of_unlabelled(experiment)
    if keys and not num_unlabelled:
        raise UserError(
            f"{keys[0]} has no effect, because no photo of the run is without a label. Add photos "
            "to data.unlabelled, lower data.labels_per_class, or remove the key."
        )
    if num_unlabelled:
        _check_loss_needs_no_labels(
            experiment, f"{num_unlabelled} have none. Leave them out, or choose another loss"
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


def may_lack_labels(experiment: Experiment) -> bool:
    """Whether photos of an experiment may come without a label, as far as its config tells."""
    data = experiment.data
    if data.unlabelled is not None or data.labels_per_class is not None:
        return True
    return data.source not in ALL_LABELLED
