"""Where a file fails: by class, and photo by photo."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from eval.packed_photos import container_of
from eval.scoring.file_rows import FileRow
from eval.scoring.predictions import Photos

MAX_PHOTOS = 12
MAX_CLASSES = 25
MAX_CONFUSIONS = 5


@dataclass(frozen=True)
class Answer:
    """What one model or file answers about a photo, and its confidence (0 to 1)."""

    who: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Failure:
    """A photo, its label, and the answers about it."""

    photo: Path
    label: str
    answers: list[Answer]


@dataclass(frozen=True)
class Gallery:
    """Photos that have something in common.

    Attributes:
        shown: the photos with the most confident answers, those first.
        num: how many photos there are in all.
    """

    title: str
    shown: list[Failure]
    num: int


@dataclass(frozen=True)
class ConfusionCell:
    """How often photos of a class get an answer.

    Attributes:
        share: of the photos of the class.
        is_right: whether the answer is the class.
    """

    num_photos: int
    share: float
    is_right: bool


@dataclass(frozen=True)
class ConfusionRow:
    """The answers about the photos of a class, in the order of the shown classes."""

    name: str
    cells: list[ConfusionCell]
    share_right: float


@dataclass(frozen=True)
class Confusion:
    """A frequent mistake: photos of a class that get another answer."""

    label: str
    answer: str
    num_photos: int


@dataclass(frozen=True)
class ConfusionTable:
    """Photos by label and answer.

    Attributes:
        classes: the most frequent classes, which are shown.
        num_classes: how many there are in all.
        most_frequent: the most frequent mistakes among all classes.
    """

    classes: list[str]
    rows: list[ConfusionRow]
    num_classes: int
    most_frequent: list[Confusion]


def confusion_counts(answers: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Photos by (label, answer), int (classes, classes)."""
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, answers), 1)
    return counts


def confusion_table(answers: np.ndarray, labels: np.ndarray, classes: list[str]) -> ConfusionTable:
    """The table of class indices `answers` and `labels`, (examples,)."""
    counts = confusion_counts(answers, labels, len(classes))
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    shown = sorted(np.argsort(-totals, kind="stable")[:MAX_CLASSES])
    rows = [
        ConfusionRow(
            name=classes[i],
            cells=[
                ConfusionCell(int(counts[i, j]), float(shares[i, j]), bool(i == j)) for j in shown
            ],
            share_right=float(shares[i, i]),
        )
        for i in shown
    ]
    mistakes = [
        Confusion(classes[i], classes[j], int(counts[i, j]))
        for i, j in np.argwhere(counts)
        if i != j
    ]
    mistakes.sort(key=lambda mistake: -mistake.num_photos)
    return ConfusionTable(
        [classes[i] for i in shown], rows, len(classes), mistakes[:MAX_CONFUSIONS]
    )


@dataclass(frozen=True)
class ClassFlips:
    """How many answers about the photos of a class a file changes.

    Attributes:
        name: of the class.
        num_lost: the parent was right and the file is wrong.
        num_won: the parent was wrong and the file is right.
    """

    name: Annotated[str, Field(alias="class")]
    num_photos: int
    num_changed: int
    num_lost: int
    num_won: int


def flips_by_class(
    answers: np.ndarray, parent_answers: np.ndarray, labels: np.ndarray, classes: list[str]
) -> list[ClassFlips]:
    """The classes with changed answers, the most changed first.

    Args:
        answers, parent_answers, labels: class indices, (examples,).
    """
    changed = answers != parent_answers
    lost, won = changed & (parent_answers == labels), changed & (answers == labels)
    num_changed, num_lost, num_won = (
        np.bincount(labels[mask], minlength=len(classes)) for mask in (changed, lost, won)
    )
    num_photos = np.bincount(labels, minlength=len(classes))
    rows = [
        ClassFlips(
            classes[i], int(num_photos[i]), int(num_changed[i]), int(num_lost[i]), int(num_won[i])
        )
        for i in np.flatnonzero(num_changed)
    ]
    return sorted(rows, key=lambda row: -row.num_changed)


def galleries(
    chosen: str | None,
    files: list[FileRow],
    test: Photos,
    classes: list[str],
    probs: dict[str, np.ndarray],
) -> list[Gallery]:
    """The most confident mistakes of the chosen file, and where it leaves its parent and teacher.

    Args:
        probs: probabilities on the test photos, by the name of a model or file.
    """
    if chosen is None:
        return []
    file, parent = _beside_its_parent(files, chosen)
    answers = {name: probs[name].argmax(axis=1) for name in (chosen, file, parent, "teacher")}
    candidates = [
        (
            f"The most confident mistakes of {chosen}",
            answers[chosen] != test.labels,
            {"file": chosen},
        ),
        (
            f"Photos on which {chosen} and the teacher disagree",
            answers[chosen] != answers["teacher"],
            {"teacher": "teacher", "file": chosen},
        ),
        (
            f"Photos on which {file} and its parent {parent} disagree",
            answers[file] != answers[parent],
            {"parent": parent, "file": file},
        ),
    ]
    result = []
    for title, mask, speakers in candidates:
        spoken = {who: probs[name] for who, name in speakers.items()}
        shown = _most_confident(test, classes, np.flatnonzero(mask), spoken)
        if shown:
            result.append(Gallery(title, shown, int(mask.sum())))
    return result


def _most_confident(
    test: Photos, classes: list[str], numbers: np.ndarray, probs: dict[str, np.ndarray]
) -> list[Failure]:
    """At most MAX_PHOTOS of the photos of these numbers; the most confident answers first."""
    confidence = np.sum([answers.max(axis=1) for answers in probs.values()], axis=0)
    numbers = numbers[np.argsort(-confidence[numbers], kind="stable")]
    return [
        _failure(test, classes, number, probs)
        for number in numbers[:MAX_PHOTOS]
        if os.path.exists(container_of(test.paths[number]))  # a report may be made elsewhere
    ]


def _beside_its_parent(files: list[FileRow], chosen: str) -> tuple[str, str]:
    """A file and its parent: the chosen file if it is int8, else the first int8 file.

    A float file changes no answers, so it would show nothing.
    """
    first = min(files, key=lambda row: ("int8" not in str(row.recipe), row.name != chosen))
    return first.name, str(first.parent)


def _failure(
    test: Photos, classes: list[str], number: int, probs: dict[str, np.ndarray]
) -> Failure:
    answers = [
        Answer(who, classes[rows[number].argmax()], float(rows[number].max()))
        for who, rows in probs.items()
    ]
    return Failure(test.paths[number], classes[test.labels[number]], answers)
