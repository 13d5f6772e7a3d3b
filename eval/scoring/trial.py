"""A contract tried on labelled photos: is the model right, and would another contract be better?

Only training and validation photos take part. A trial chooses what a file expects, and nothing that
chooses may see the test photos.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.contract import RANGES, InputContract
from eval.foreign_metadata import natural_order
from eval.images import evaluation_batches, evaluation_image
from eval.scoring.intervals import wilson_interval
from eval.scoring.probabilities import output_kind, two_classes
from eval.scoring.significance import mcnemar_p

log = logging.getLogger("potstill")

MAX_PHOTOS = 60
"""A model that is right on 33 % in one range and on 72 % in another differs clearly on so many."""
CLEARLY = 0.001
"""The largest p-value of a difference that is spoken of. About ten alternatives are compared."""
MIN_PER_CLASS = 5
"""Fewer photos of a class do not show a permutation of labels."""

Predict = Callable[[np.ndarray, InputContract], np.ndarray]
"""uint8 images of the evaluation view, and how to feed them -> outputs, (photos, classes)."""


@dataclass(frozen=True)
class TrialPhotos:
    """Labelled photos for a trial: files, and the name of the class of each."""

    paths: list[Path]
    names: list[str]

    @property
    def classes(self) -> list[str]:
        """The names of all classes in alphabetical order."""
        return sorted(set(self.names))


@dataclass(frozen=True)
class Trial:
    """How many photos a model gets right under a contract."""

    contract: InputContract
    is_right: np.ndarray
    outputs: np.ndarray

    @property
    def num_right(self) -> int:
        """Photos with the right answer."""
        return int(self.is_right.sum())

    def beats(self, other: "Trial") -> bool:
        """Whether this contract is clearly better on the same photos."""
        won = int((self.is_right & ~other.is_right).sum())
        lost = int((other.is_right & ~self.is_right).sum())
        return won > lost and mcnemar_p(won, lost) < CLEARLY

    def is_chance(self) -> bool:
        """Whether guessing may be as good."""
        num_classes = max(self.outputs.shape[1], 2)
        return wilson_interval(self.num_right, len(self.is_right))[0] <= 1 / num_classes


def trial_photos(paths: Sequence[Path], names: Sequence[str]) -> TrialPhotos:
    """At most MAX_PHOTOS of the photos; the classes take turns."""
    by_class: dict[str, list[Path]] = {}
    for path, name in zip(paths, names, strict=True):
        by_class.setdefault(name, []).append(path)
    turns = max(map(len, by_class.values()), default=0)
    chosen = [
        (photos[turn], name)
        for turn in range(turns)
        for name, photos in sorted(by_class.items())
        if turn < len(photos)
    ][: max(MAX_PHOTOS, MIN_PER_CLASS * len(by_class))]
    return TrialPhotos([path for path, _ in chosen], [name for _, name in chosen])


def settle_by_trial(
    predict: Predict,
    image_size: tuple[int, int],
    photos: TrialPhotos,
    contract: InputContract,
    *,
    model: str,
    automatic: bool,
) -> InputContract:
    """Try a contract, and say so if it is at chance or another one is clearly better.

    Args:
        image_size: (height, width) of the model's input.
        model: its name, for messages.
        automatic: take the better contract instead of warning.

    Returns:
        The contract, with the kind of answers that the values show if nobody stated it.
    """
    if not photos.paths:
        return contract
    trier = _Trier(predict, image_size, photos)
    first = trier.trial(contract)
    first = replace(first, contract=with_answers(first.contract, first.outputs))
    best = _best(trier, first)
    if best is not first and automatic:
        log.info(
            "%s: --contract auto takes %s: %s instead of %s",
            model, _options(first.contract, best.contract), _share(best), _share(first),
        )  # fmt: skip
        return best.contract
    if best is not first:
        log.warning(
            "%s answers %s of training and validation photos correctly; with %s it is %s. Add %s, "
            "or --contract auto.",
            model, _share(first), _options(first.contract, best.contract), _share(best),
            _options(first.contract, best.contract),
        )  # fmt: skip
    elif first.is_chance():
        log.warning(
            "%s answers %s of training and validation photos correctly, which may be chance for "
            "%d classes. No other range, order of colours, fit or order of labels is clearly "
            "better. Check --pixels, --labels and whether these are the photos that it knows.",
            model, _share(first), first.outputs.shape[1],
        )  # fmt: skip
    _report_permutation(best, photos, model)
    return first.contract


class _Trier:
    """Runs trials; photos are decoded once for each way of fitting them."""

    def __init__(self, predict: Predict, image_size: tuple[int, int], photos: TrialPhotos) -> None:
        self._predict, self._image_size, self.photos = predict, image_size, photos
        self._images: dict[tuple[str, str, bool], np.ndarray] = {}
        self._outputs: dict[tuple[object, ...], np.ndarray] = {}

    def trial(self, contract: InputContract) -> Trial:
        """The trial of one contract."""
        key = contract.pixels, contract.channels, contract.fit, contract.interpolation
        if key not in self._outputs:
            self._outputs[key] = self._predict(self._view(contract), contract)
        outputs = self._outputs[key]
        names = contract.labels or tuple(self.photos.classes)
        answers = two_classes(outputs, contract.answers or output_kind(outputs)).argmax(axis=1)
        right = [names[i] == name for i, name in zip(answers, self.photos.names, strict=True)]
        return Trial(contract, np.array(right), outputs)

    def _view(self, contract: InputContract) -> np.ndarray:
        key = contract.fit, contract.interpolation, contract.channels == "grey"
        if key not in self._images:
            batches = evaluation_batches(
                self.photos.paths,
                self._image_size,
                read=lambda path, size: evaluation_image(path, size, contract),
            )
            self._images[key] = np.concatenate(list(batches))
        return self._images[key]

    def looks_alike(self, contract: InputContract, other: InputContract) -> bool:
        """Whether both fit these photos in the same way, as where all have the input's shape."""
        return np.array_equal(self._view(contract), self._view(other))


def _best(trier: _Trier, first: Trial) -> Trial:
    """The trial that no other contract beats clearly; `first` if nothing beats it.

    One field changes at a time. Two may be wrong, so the search starts again from a better one.
    """
    best = first
    while int((~best.is_right).sum()) >= 8:  # with fewer errors nothing can be clearly better
        trials = [trier.trial(contract) for contract in _alternatives(trier, best.contract)]
        better = [trial for trial in trials if trial.beats(best) and not trial.is_chance()]
        if not better:
            break
        best = max(better, key=lambda trial: trial.num_right)  # the first of equals: see below
    return best


def _alternatives(trier: _Trier, contract: InputContract) -> Iterator[InputContract]:
    """Contracts that differ in one field, the likeliest first."""
    is_grey = contract.channels == "grey"
    if not is_grey:
        other = "rgb" if contract.channels == "bgr" else "bgr"
        yield contract.changed("auto", channels=other)
    for name, pixels in RANGES.items():
        channels = contract.channels
        if name == "caffe" and not is_grey:
            channels = "bgr"
        if (pixels, channels) != (contract.pixels, contract.channels):
            yield contract.changed("auto", pixels=pixels, channels=channels)
    for fit in ("crop", "stretch", "pad"):
        changed = contract.changed("auto", fit=fit)
        if fit != contract.fit and not trier.looks_alike(changed, contract):
            yield changed
    classes = trier.photos.classes
    for labels in (tuple(classes), tuple(natural_order(classes))):
        names = contract.labels or tuple(classes)
        if len(labels) == len(names) and labels != names:
            yield contract.changed("auto", labels=labels)


def with_answers(contract: InputContract, outputs: np.ndarray) -> InputContract:
    """The contract with the kind of answers that the values show, if nobody stated it."""
    if contract.answers is not None:
        return contract
    kind = output_kind(outputs)
    if outputs.shape[1] == 1 and kind == "probabilities":
        kind = "score"
    return contract.changed("values", answers=kind)


def _options(old: InputContract, new: InputContract) -> str:
    """The options that lead from one contract to another."""
    words = []
    if (new.pixels, new.channels) != (old.pixels, old.channels):
        name = new.pixels.name if new.pixels != old.pixels else ""
        if name:
            words.append(f"--pixels {name}")
        if new.channels != old.channels and name != "caffe":
            words.append(f"--channels {new.channels}")
    if new.fit != old.fit:
        words.append(f"--fit {new.fit}")
    if new.labels != old.labels and new.labels:
        is_sorted = list(new.labels) == sorted(new.labels)
        words.append(f"--labels {'alphabetical' if is_sorted else 'natural'}")
    return " ".join(words)


def _share(trial: Trial) -> str:
    n = len(trial.is_right)
    return f"{trial.num_right / n:.0%} of {n}"


def _report_permutation(trial: Trial, photos: TrialPhotos, model: str) -> None:
    """Warn if the answers fit the photos clearly better under another order of the labels."""
    from scipy.optimize import linear_sum_assignment

    names = list(trial.contract.labels or photos.classes)
    counts = [photos.names.count(name) for name in photos.classes]
    outputs = two_classes(trial.outputs, trial.contract.answers or "logits")
    if min(counts) < MIN_PER_CLASS or sorted(names) != photos.classes:
        return
    labels = np.array([names.index(name) for name in photos.names])
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels, outputs.argmax(axis=1)), 1)
    label, answer = linear_sum_assignment(-confusion)
    meaning = dict(zip(answer.tolist(), label.tolist(), strict=True))
    is_right = np.array([meaning[i] for i in outputs.argmax(axis=1)]) == labels
    if not Trial(trial.contract, is_right, trial.outputs).beats(trial):
        return
    order = ", ".join(names[meaning[i]] for i in range(len(names)))
    log.warning(
        "%s: the labels look permuted. In the order %s, %.0f %% of these photos are right. If that "
        "is the order of the model, write it into a file, one label on a line, and add --labels "
        "FILE.",
        model, order, 100 * is_right.mean(),
    )  # fmt: skip
