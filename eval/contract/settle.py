"""A contract tried on labelled photos: is the model right, and would another contract be better?

Only training and validation photos take part. A trial chooses what a file expects, and nothing that
chooses may see the test photos.
"""

import logging
from collections.abc import Callable

import numpy as np

from configs.contract import InputContract
from configs.errors import UserError
from eval.contract.alternatives import alternatives, options_between
from eval.contract.permutation import report_permutation
from eval.contract.trial import MIN_TO_TELL, Trial, TrialPhotos, share_text
from eval.images import evaluation_batches, evaluation_image
from eval.scoring.probabilities import as_probabilities, output_kind

log = logging.getLogger("potstill")

BATCH_SIZE = 32

Predict = Callable[[np.ndarray, InputContract], np.ndarray]
"""uint8 images of the evaluation view, and how to feed them -> outputs, (photos, classes)."""


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
    checked = with_answers(contract, first.outputs)  # raises if the stated kind cannot be right
    best = _best(trier, first)
    options = options_between(first.contract, best.contract)
    if best is not first and automatic:
        log.info(
            "%s: --contract auto takes %s: right on %s instead of %s",
            model, options, share_text(best), share_text(first),
        )  # fmt: skip
        report_permutation(best, photos, model)
        return with_answers(best.contract, best.outputs)
    if best is not first:
        log.warning(
            "%s is right on %s of your training and validation photos. With %s it is right on %s. "
            "Type %s instead, or --contract auto.",
            model, share_text(first), options, share_text(best), options,
        )  # fmt: skip
    elif len(photos.paths) < MIN_TO_TELL:
        log.warning(
            "%s: %d labelled photos are too few to tell whether it is read correctly. It is read "
            "as: %s. Compare this with its training, and type what differs, such as --pixels 0..1.",
            model, len(photos.paths), contract.line,
        )  # fmt: skip
    elif first.is_chance():
        log.warning(
            "%s is right on %s of your training and validation photos, which may be chance. No "
            "single change of range, colours, fit or order of labels helps. Two of them may be "
            "wrong. Look up how it was trained, and type --pixels, --channels, --fit and --labels. "
            "Or these are not its classes, or it is no better on these photos: compare with what "
            "its own program answers.",
            model, share_text(first),
        )  # fmt: skip
    report_permutation(best, photos, model)
    return checked


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
            images = self._view(contract)
            parts = range(0, len(images), BATCH_SIZE)
            self._outputs[key] = np.concatenate(
                [self._predict(images[i : i + BATCH_SIZE], contract) for i in parts]
            )
        outputs = self._outputs[key]
        names = contract.labels or tuple(self.photos.classes)
        probs = as_probabilities(outputs, contract.answers)
        right = [
            names[i] == name
            for i, name in zip(probs.argmax(axis=1), self.photos.names, strict=True)
        ]
        confidences = [
            row[names.index(name)] if name in names else 0.0
            for row, name in zip(probs, self.photos.names, strict=True)
        ]
        confidence = float(np.mean(confidences))
        return Trial(contract, np.array(right), outputs, self.photos.names, confidence)

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
        trials = [
            trier.trial(contract)
            for contract in alternatives(best.contract, trier.photos.classes, trier.looks_alike)
        ]
        better = [trial for trial in trials if trial.beats(best) and not trial.is_chance()]
        if not better:
            break
        # Padded and stretched photos often get the same answers; the model is surer of its own.
        best = max(better, key=lambda trial: (trial.num_right, trial.confidence))
    return best


def with_answers(contract: InputContract, outputs: np.ndarray) -> InputContract:
    """The contract with the kind of answers that the values show, if nobody stated it.

    Raises:
        UserError: the answers are not of the kind that was stated.
    """
    kind, is_single = output_kind(outputs), outputs.shape[1] == 1
    if is_single and kind != "logits":
        kind = "score"
    stated = contract.answers
    if stated is None:
        return contract.changed("values", answers=kind)
    low, high = float(outputs.min(initial=0)), float(outputs.max(initial=0))
    if stated != "logits" and (low < -0.01 or high > 1.01):
        raise UserError(
            f"the answers should be {stated}, and they go from {low:.3g} to {high:.3g}. Expected "
            "0 to 1. If they are logits, type --answers logits."
        )
    if stated == "score" and not is_single:
        raise UserError(
            f"the answers should be one score, and there are {outputs.shape[1]}. If they are "
            "independent scores of several classes, type --answers scores."
        )
    if stated == "logits" and kind == "probabilities" and len(outputs) > 1 and not is_single:
        raise UserError(
            "the answers should be logits, and they are probabilities: they lie between 0 and 1 "
            "and add up to 1. Type --answers probabilities."
        )
    return contract
