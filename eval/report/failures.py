"""Where a file fails: by class, and photo by photo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.scoring.predictions import Photos

MAX_PHOTOS = 12


@dataclass(frozen=True)
class Answer:
    """What one model or file says of a photo, and how sure it is (0 to 1)."""

    who: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Failure:
    """A photo, its label, and what was said of it."""

    photo: Path
    label: str
    answers: list[Answer]


@dataclass(frozen=True)
class Gallery:
    """Photos that have something in common.

    Attributes:
        shown: some of them, those with the surest answers first.
        num: how many there are in all.
    """

    title: str
    shown: list[Failure]
    num: int


def confusion_counts(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Photos by (label, answer), int (classes, classes)."""
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def flips_by_class(
    predicted: np.ndarray, source_predicted: np.ndarray, labels: np.ndarray, classes: list[str]
) -> list[dict[str, Any]]:
    """The classes whose photos a file answers otherwise than its source, most changed first.

    Returns:
        class; num_photos with this label; of these num_changed, and num_lost that the source had
        right and the file has wrong, num_won the other way round.
    """
    changed = predicted != source_predicted
    lost, won = changed & (source_predicted == labels), changed & (predicted == labels)
    counts = [np.bincount(labels[some], minlength=len(classes)) for some in (changed, lost, won)]
    num_photos = np.bincount(labels, minlength=len(classes))
    rows = [
        {
            "class": classes[i],
            "num_photos": int(num_photos[i]),
            "num_changed": int(counts[0][i]),
            "num_lost": int(counts[1][i]),
            "num_won": int(counts[2][i]),
        }
        for i in np.flatnonzero(counts[0])
    ]
    return sorted(rows, key=lambda row: -row["num_changed"])


def galleries(
    report: dict[str, Any], test: Photos, classes: list[str], probs: dict[str, np.ndarray]
) -> list[Gallery]:
    """The surest mistakes of the chosen file, and where it leaves its source and the teacher.

    Args:
        probs: probabilities on the test photos by name of model or file.
    """
    chosen = report["verdict"]["chosen_file"]
    if chosen is None:
        return []
    file, source = _beside_source(report["files"], chosen)
    answers = {name: probs[name].argmax(axis=1) for name in (chosen, file, source, "teacher")}
    wanted = [
        (f"The surest mistakes of {chosen}", answers[chosen] != test.labels, {"file": chosen}),
        (
            f"Photos on which {chosen} and the teacher disagree",
            answers[chosen] != answers["teacher"],
            {"teacher": "teacher", "file": chosen},
        ),
        (
            f"Photos on which {file} and its source {source} disagree",
            answers[file] != answers[source],
            {"source": source, "file": file},
        ),
    ]
    found = []
    for title, which, speakers in wanted:
        said = {who: probs[name] for who, name in speakers.items()}
        shown = _surest(test, classes, np.flatnonzero(which), said)
        found.append(Gallery(title, shown, int(which.sum())))
    return [gallery for gallery in found if gallery.shown]


def _surest(
    test: Photos, classes: list[str], numbers: np.ndarray, said: dict[str, np.ndarray]
) -> list[Failure]:
    """Some of the photos of these numbers, those of which all that is said is surest first."""
    sure = np.sum([probs.max(axis=1) for probs in said.values()], axis=0)
    numbers = numbers[np.argsort(-sure[numbers], kind="stable")]
    return [
        _failure(test, classes, i, said)
        for i in numbers[:MAX_PHOTOS]
        if test.paths[i].exists()  # a report can be made where the photos are not
    ]


def _beside_source(files: list[dict[str, Any]], chosen: str) -> tuple[str, str]:
    """A file and its source: the chosen one if it is int8, else the first that is; a float file
    has nothing to show."""
    by_worth = sorted(
        files, key=lambda row: ("int8" not in str(row["recipe"]), row["name"] != chosen)
    )
    return by_worth[0]["name"], by_worth[0]["source"]


def _failure(test: Photos, classes: list[str], i: int, said: dict[str, np.ndarray]) -> Failure:
    answers = [
        Answer(who, classes[probs[i].argmax()], float(probs[i].max()))
        for who, probs in said.items()
    ]
    return Failure(test.paths[i], classes[test.labels[i]], answers)
