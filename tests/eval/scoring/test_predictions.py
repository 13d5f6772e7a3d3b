"""Probabilities of a model file on photos."""

from pathlib import Path

import numpy as np
import pytest

from configs.errors import StepFailed, UserError
from eval.devices.probe import Edge
from eval.scoring import predictions as module
from eval.scoring.predictions import predict_file


def test_a_file_is_scored_through_its_batches(
    onnx_file: Path, colours: np.ndarray, expected_probs: np.ndarray
) -> None:
    done: list[int] = []
    probs = predict_file(onnx_file, [colours[:2], colours[2:]], progress=done.append)
    np.testing.assert_allclose(probs, expected_probs, rtol=1e-5)  # float32 rounding
    assert done == [2, 3]
    assert probs.argmax(axis=1).tolist() == [0, 1, 2]


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("text")
    with pytest.raises(UserError, match=r"bad\.onnx is not a model that can be run here"):
        predict_file(tmp_path / "bad.onnx", [])


def test_answers_that_are_no_numbers_fail(
    onnx_file: Path, colours: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Overflown:
        num_classes = 2
        answers = None
        input = Edge("float32")

        def predict(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 2), np.nan, "float32")

    monkeypatch.setattr(module, "open_under", lambda *_, **__: Overflown())
    with pytest.raises(StepFailed, match="NaN"):
        predict_file(onnx_file, [colours])
