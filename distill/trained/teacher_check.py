"""Is a trained teacher worth listening to? Named before it labels anything."""

import logging
from dataclasses import dataclass

import keras
import numpy as np

from distill.backbones import HEAD
from distill.data.manifest import Examples
from distill.trained.answers import model_outputs
from distill.trained.linear_probe import linear_probe
from eval.scoring.intervals import paired_interval, wilson_interval

log = logging.getLogger("potstill")

MOST_PHOTOS = 1000
"""A linear probe learns from this many photos at most. More take longer than they are worth."""


@dataclass(frozen=True)
class TeacherCheck:
    """What the manifest of a trained teacher says about the check.

    Attributes:
        probe_val_top1: validation top-1 of a linear classifier on the teacher's own features.
    """

    probe_val_top1: float


def check_teacher(model: keras.Model, train: Examples, validation: Examples) -> TeacherCheck:
    """Compare a trained teacher with chance and with a linear probe; warn if it is worse.

    The probe reads the features in front of the classifier. A teacher that loses to it has a
    classifier that did not learn enough, or too much.

    Args:
        model: ends in the classifier of our backbones.
        train: the photos that it learned from.
    """
    head = model.get_layer(HEAD)
    backbone = keras.Model(model.input, head.input)
    chosen = train.some(MOST_PHOTOS)
    splits = {"train": chosen, "validation": validation}
    features = model_outputs(backbone, splits, name="features of the teacher")
    probe = linear_probe(features["train"], chosen.labels)
    kernel, bias = (np.asarray(weights) for weights in head.get_weights())
    is_right = (features["validation"] @ kernel + bias).argmax(axis=1) == validation.labels
    probe_is_right = probe.predict(features["validation"]) == validation.labels
    warn_of_chance(int(is_right.sum()), validation)
    _warn_of_probe(is_right, probe_is_right)
    return TeacherCheck(probe_val_top1=float(probe_is_right.mean()))


def warn_of_chance(num_right: int, validation: Examples) -> None:
    """Log a warning if the teacher may be no better than guessing."""
    if wilson_interval(num_right, len(validation))[0] <= 1 / len(validation.classes):
        log.warning(
            "the teacher is right on %d of %d validation photos, which may be chance. A student "
            "learns nothing from it. Train the teacher longer or on more labels, or begin from "
            "pretrained weights. For a teacher that is given as a file, check the order of the "
            "classes (expected: %s) and the pixels that teacher.files says.",
            num_right,
            len(validation),
            ", ".join(validation.classes[:20]),
        )


def _warn_of_probe(is_right: np.ndarray, probe_is_right: np.ndarray) -> None:
    low, _ = paired_interval(
        only_first=int((probe_is_right & ~is_right).sum()),
        only_second=int((is_right & ~probe_is_right).sum()),
        n=len(is_right),
    )
    if low > 0:
        log.warning(
            "the teacher (validation top-1 %.1f %%) is worse than a linear classifier on its own "
            "features (%.1f %%). Its student will be no better. Train the teacher with a lower "
            "learning rate, fewer epochs, or teacher.patience.",
            100 * is_right.mean(),
            100 * probe_is_right.mean(),
        )
