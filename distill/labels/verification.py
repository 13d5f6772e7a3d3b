"""`distill label --verify N`: stored soft labels against logits that are computed now."""

from dataclasses import dataclass

import numpy as np

from configs.errors import StepFailed
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.pipelines import ViewSource, open_photo_store, student_views
from distill.labels.label_file import LabelFormat
from distill.labels.soft_labels import load_soft_labels, soft_label_format, stored_features
from distill.labels.view_logits import BATCH_SIZE, view_logits
from distill.teacher import load_teachers


@dataclass(frozen=True)
class VerifiedLabels:
    """The result of a verification.

    Attributes:
        max_abs_diff: the largest difference between a stored logit or feature and the one computed
            now.
    """

    num_verified: int
    max_abs_diff: float


def verify_soft_labels(run: RunDir, experiment: Experiment, count: int) -> VerifiedLabels:
    """Compute `count` random labels again, in batches of another size, and compare.

    Raises:
        StepFailed: a label differs by more than the rounding of float16.
    """
    with open_photo_store(run, experiment) as photos:
        return _verify(run, experiment, student_views(run, experiment, photos), count)


def _verify(
    run: RunDir, experiment: Experiment, view_source: ViewSource, count: int
) -> VerifiedLabels:
    rng = np.random.default_rng()
    indices = rng.integers(len(view_source.examples), size=count)
    views = rng.integers(view_source.num_views, size=count)
    teachers = load_teachers(run, experiment, stored_features(experiment))
    live = view_logits(teachers, view_source, indices, views, batch_size=BATCH_SIZE - 1)
    num_features = teachers[0].num_features
    stored = load_soft_labels(run, experiment, num_features=num_features)(indices, views)
    label_format = soft_label_format(experiment, view_source.examples, num_features=num_features)
    differences = _differences(label_format, stored, live)
    # float32 sums in another order may round to the next float16.
    tolerance = np.spacing(np.abs(live).astype("float16")).astype("float32") + 1e-4
    wrong = (differences > tolerance).any(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise StepFailed(
            f"{int(wrong.sum())} of {count} soft labels are not what the teacher says now: view "
            f"{views[first]} of {view_source.examples.paths[indices[first]]} differs by "
            f"{float(differences[first].max()):.3g}. Make them again with --force label."
        )
    return VerifiedLabels(count, float(differences.max()))


def _differences(label_format: LabelFormat, stored: np.ndarray, live: np.ndarray) -> np.ndarray:
    """|stored - live| for each logit and feature.

    It is 0 for logits that `top_k` drops, or keeps by a hair.
    """
    differences = np.abs(stored - live)
    if label_format.top_k is None:
        return differences
    logits = live[:, : label_format.num_classes]
    smallest_stored = np.sort(logits, axis=1)[:, [-label_format.top_k]]
    is_stored = logits > smallest_stored + 0.01 * np.abs(smallest_stored)
    of_logits, of_features = np.split(differences, [label_format.num_classes], axis=1)
    return np.hstack([np.where(is_stored, of_logits, 0.0), of_features])
