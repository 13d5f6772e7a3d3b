"""From what a model answers, probabilities or logits, to probabilities."""

import numpy as np

from configs.contract import Answers
from eval.rows import Rows

ROWS_AT_ONCE = 4096


def as_probabilities(outputs: np.ndarray, answers: str | None = None) -> np.ndarray:
    """Probabilities of answers, (examples, classes): renormalised, or logits through softmax.

    Args:
        outputs: (examples, classes), or (examples, 1) for the score of the second of two classes.
        answers: what the answers are, as in an `InputContract`; None to tell it from the values.
    """
    kind = answers or output_kind(outputs)
    rows = Rows()
    for start in range(0, max(len(outputs), 1), ROWS_AT_ONCE):
        rows.append(_of_rows(outputs[start : start + ROWS_AT_ONCE], kind))
    return rows.array()


def _of_rows(outputs: np.ndarray, kind: str) -> np.ndarray:
    outputs = two_classes(outputs.astype("float32"), kind)
    if kind != "logits":
        sums = outputs.sum(axis=1, keepdims=True)
        # Where every class was rounded to 0, all classes are equally likely.
        return np.where(sums > 0, outputs / np.maximum(sums, 1e-7), 1 / outputs.shape[1])
    return np.asarray(np.exp(log_softmax(outputs)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, (examples, classes)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def output_kind(outputs: np.ndarray) -> Answers:
    """Whether a model answers with probabilities, with independent scores, or with logits.

    All rows decide together, because a model returns one kind. Probabilities add up to one, scores
    of 0 to 1 do not. An int8 output holds probabilities in steps of 1/256, so a sum may be off by
    half a step for each class.

    Args:
        outputs: (examples, classes), or (examples, 1) for the score of the second of two classes.
    """
    num_classes = outputs.shape[1]
    in_range = outputs.min(initial=0) >= 0 and outputs.max(initial=0) <= 1.01
    largest_error = np.abs(outputs.sum(axis=1) - 1).max(initial=0)
    sums_to_one = num_classes == 1 or largest_error <= max(0.05, num_classes / 512)
    if not in_range:
        return "logits"
    return "probabilities" if sums_to_one else "scores"


def two_classes(outputs: np.ndarray, kind: str) -> np.ndarray:
    """Answers with one score, of the second of two classes, as two columns; others as they are.

    Args:
        kind: "logits", or another word for what lies between 0 and 1.
    """
    if outputs.shape[1] != 1:
        return outputs
    first = np.zeros_like(outputs) if kind == "logits" else 1 - outputs
    return np.hstack([first, outputs])
