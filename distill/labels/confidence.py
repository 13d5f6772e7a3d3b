"""How sure the teacher is of a photo, and which photos a student therefore learns from."""

import math
from dataclasses import replace

import numpy as np

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import LabelReader, ViewSource, student_views
from distill.labels.soft_labels import load_soft_labels
from eval.scoring.probabilities import log_softmax

VIEWS_AT_ONCE = 4096
"""Views whose labels are in memory together."""


def views_to_learn(run: RunDir, experiment: Experiment, photos: PhotoStore) -> ViewSource:
    """The views of the photos that the student learns from, in the mix of the config.

    Photos without a label are left out if the teacher's confidence in them is below
    `soft_labels.min_confidence`. Their soft labels stay in the file.

    Raises:
        UserError: the confidence in all photos without labels is too low.
    """
    source = student_views(run, experiment, photos)
    student = experiment.student
    source = replace(
        source, labelled_share=student.labelled_share, balanced=student.sampling == "balanced"
    )
    min_confidence = experiment.soft_labels.min_confidence
    has_no_label = source.examples.labels < 0
    if not min_confidence or not has_no_label.any():
        return source
    unlabelled = np.flatnonzero(has_no_label)
    confidence = confidences(load_soft_labels(run, experiment), unlabelled, source.num_views)
    is_left_out = confidence < min_confidence
    if is_left_out.all():
        raise UserError(_none_is_left(confidence, min_confidence))
    is_used = np.ones(len(source.examples), bool)
    is_used[unlabelled[is_left_out]] = False
    return replace(source, rows=np.flatnonzero(is_used))


def confidences(soft_labels: LabelReader, rows: np.ndarray, num_views: int) -> np.ndarray:
    """The probability of the teacher's answer about each photo, (rows,).

    It is the largest entry of the mean of its probabilities for all views, at temperature 1.

    Args:
        rows: indices of the examples.
    """
    views, at_once = np.arange(num_views), max(VIEWS_AT_ONCE // num_views, 1)
    result = np.empty(len(rows))
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        logits = soft_labels(np.repeat(part, num_views), np.tile(views, len(part)))
        probs = np.exp(log_softmax(logits)).reshape(len(part), num_views, -1)
        result[start : start + len(part)] = probs.mean(axis=1).max(axis=1)
    return result


def _none_is_left(confidence: np.ndarray, min_confidence: float) -> str:
    median, high = (math.floor(100 * np.quantile(confidence, share)) / 100 for share in (0.5, 0.9))
    return (
        f"the teacher's confidence in all {len(confidence)} photos without labels is below "
        f"soft_labels.min_confidence ({min_confidence:g}), so the student would learn from none of "
        f"them. Half of them have a confidence of {median:.2f} or more, and a tenth of {high:.2f} "
        f"or more. Lower the limit:\n  --set soft_labels.min_confidence={median:.2f}"
    )
