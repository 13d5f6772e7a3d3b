"""Photos that a contract is tried on, and how many of them a model gets right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.contract import InputContract
from eval.scoring.intervals import wilson_interval
from eval.scoring.significance import mcnemar_p

MAX_PHOTOS = 60
"""A model that is right on 33 % in one range and on 72 % in another differs clearly on so many."""
MAX_PHOTOS_OF_MANY = 300
"""The same with many classes, of which each should have a few photos."""
CLEARLY = 0.001
"""The largest p-value of a difference that is spoken of. About ten alternatives are compared."""
MIN_PER_CLASS = 5
"""Fewer photos of a class do not show a permutation of labels."""
MIN_TO_TELL = 8
"""Fewer photos tell nothing."""
MAX_IMBALANCE = 3
"""How many times as many photos of one class as of another take part at most."""


@dataclass(frozen=True)
class TrialPhotos:
    """Labelled photos for a trial: files, and the name of the class of each."""

    paths: Sequence[Path]
    names: list[str]

    @property
    def classes(self) -> list[str]:
        """The names of all classes in alphabetical order."""
        return sorted(set(self.names))


@dataclass(frozen=True)
class Trial:
    """How many photos a model gets right under a contract.

    Attributes:
        is_right: for each photo.
        outputs: of the model, (photos, outputs).
        names: the class of each photo.
        confidence: the mean probability that the right class gets.
    """

    contract: InputContract
    is_right: np.ndarray
    outputs: np.ndarray
    names: list[str]
    confidence: float = 0.0

    @property
    def num_right(self) -> int:
        """Photos with the right answer."""
        return int(self.is_right.sum())

    def beats(self, other: "Trial") -> bool:
        """Whether this contract is clearly better on the same photos, and for the mean class."""
        won = int((self.is_right & ~other.is_right).sum())
        lost = int((other.is_right & ~self.is_right).sum())
        is_better = won > lost and mcnemar_p(won, lost) < CLEARLY
        return is_better and self.balanced_accuracy > other.balanced_accuracy

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the shares of right answers of each class."""
        names = np.array(self.names)
        return float(np.mean([self.is_right[names == name].mean() for name in set(self.names)]))

    def is_chance(self) -> bool:
        """Whether guessing, or naming the most frequent class alone, may be as good."""
        num_classes = max(self.outputs.shape[1], 2)
        largest = max(map(self.names.count, set(self.names))) / len(self.names)
        low = wilson_interval(self.num_right, len(self.is_right))[0]
        return low <= max(largest, 1 / num_classes) and self.balanced_accuracy < 0.9


def trial_photos(paths: Sequence[Path], names: Sequence[str]) -> TrialPhotos:
    """Up to MAX_PHOTOS of the photos, or a few of each of many classes; the classes take turns."""
    by_class: dict[str, list[Path]] = {}
    for path, name in zip(paths, names, strict=True):
        by_class.setdefault(name, []).append(path)
    counts = [len(photos) for photos in by_class.values()] or [0]
    turns = min(max(counts), max(MAX_IMBALANCE * min(counts), MIN_PER_CLASS))
    most = max(MAX_PHOTOS, min(MIN_PER_CLASS * len(by_class), MAX_PHOTOS_OF_MANY))
    chosen = [
        (photos[turn], name)
        for turn in range(turns)
        for name, photos in sorted(by_class.items())
        if turn < len(photos)
    ][:most]
    return TrialPhotos([path for path, _ in chosen], [name for _, name in chosen])


def share_text(trial: Trial) -> str:
    """How many photos are right, for people: 20 of 60 (33%)."""
    n = len(trial.is_right)
    return f"{trial.num_right} of {n} ({trial.num_right / n:.0%})"
