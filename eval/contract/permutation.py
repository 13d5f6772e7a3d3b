"""Labels in an order that neither the alphabet nor numbers explain: reported, never taken."""

import logging
from dataclasses import replace

import numpy as np

from eval.contract.trial import MIN_PER_CLASS, Trial, TrialPhotos, share_text
from eval.scoring.probabilities import as_probabilities

log = logging.getLogger("potstill")

MIN_PERMUTED = 0.6
"""The least share of right answers that an order of labels must give to be worth a word."""


def report_permutation(trial: Trial, photos: TrialPhotos, model: str) -> None:
    """Warn if the answers fit the photos clearly better under another order of the labels.

    The order is found on one half of the photos and tried on the other, because with many classes
    some order fits any answers.
    """
    from scipy.optimize import linear_sum_assignment

    names = list(trial.contract.labels or photos.classes)
    counts = [photos.names.count(name) for name in photos.classes]
    if min(counts) < MIN_PER_CLASS or sorted(names) != photos.classes:
        return
    labels = np.array([names.index(name) for name in photos.names])
    answers = as_probabilities(trial.outputs, trial.contract.answers).argmax(axis=1)
    # The classes take turns, so every second turn is one half.
    half = np.arange(len(labels)) // len(names) % 2 == 0
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels[half], answers[half]), 1)
    label, answer = linear_sum_assignment(-confusion)
    meaning = np.empty(len(names), int)
    meaning[answer] = label
    tried = Trial(
        trial.contract, (meaning[answers] == labels)[~half], trial.outputs,
        [name for name, is_first in zip(photos.names, half, strict=True) if not is_first],
    )  # fmt: skip
    before = replace(tried, is_right=trial.is_right[~half])
    if not tried.beats(before) or tried.is_right.mean() < MIN_PERMUTED:
        return
    order = ", ".join(names[i] for i in meaning)
    log.warning(
        "%s: its labels seem to be in another order: %s. In this order it is right on %s (photos "
        "that did not help to find the order). If it is the order of the model, write it into a "
        "file, one label on a line, and type --labels FILE.",
        model, order, share_text(tried),
    )  # fmt: skip
