"""How sure a teacher is of a photo."""

import numpy as np
import pytest

from distill.labels import confidence
from distill.labels.confidence import confidences
from distill.labels.label_file import LabelFormat


def reader_of(logits: np.ndarray, label_format: LabelFormat):
    stored = np.stack([label_format.encode(of_photo) for of_photo in logits])
    return lambda indices, views: label_format.decode(stored[indices, views])


def test_confidence_matches_values_worked_by_hand() -> None:
    ln3 = np.log(3.0)
    # Views of (3/4, 1/4) and (3/4, 1/4): 3/4. Views of (3/4, 1/4) and (1/4, 3/4): 1/2.
    logits = np.array([[[ln3, 0], [ln3, 0]], [[ln3, 0], [0, ln3]]], "float32")
    reader = reader_of(logits, LabelFormat(2))
    # float16 has three digits.
    assert confidences(reader, np.array([0, 1]), 2) == pytest.approx([0.75, 0.5], abs=1e-3)
    assert confidences(reader, np.array([1]), 2) == pytest.approx([0.5], abs=1e-3)


@pytest.mark.parametrize("top_k", [None, 3])
def test_many_photos_are_read_in_parts(monkeypatch: pytest.MonkeyPatch, top_k: int | None) -> None:
    monkeypatch.setattr(confidence, "VIEWS_AT_ONCE", 8)
    logits = np.random.default_rng(1).normal(0, 3, (10, 5, 4)).astype("float32")
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    rows = np.array([9, 2, 3, 4, 7])
    stored = confidences(reader_of(logits, LabelFormat(4, top_k)), rows, 5)
    assert stored == pytest.approx(probs.mean(axis=1).max(axis=1)[rows], abs=2e-3)  # float16
