"""What a config must hold before anything is trained: losses and labels that fit each other."""

from configs.artifacts import read_json
from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema import Experiment, SoftLabelsConfig
from distill.losses import LOSSES, needs_labels


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
    if keys and not may_lack_labels(experiment):
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


def may_lack_labels(experiment: Experiment) -> bool:
    """Whether some photos of an experiment come without a label."""
    data = experiment.data
    return data.unlabelled is not None or data.labels_per_class is not None
