from pathlib import Path

import numpy as np
import pytest

from configs.errors import StepFailed, UserError
from eval.scoring import accuracy as module
from eval.scoring.accuracy import (
    RANGES,
    Pixels,
    accuracy,
    as_probabilities,
    compare,
    pixels_from_options,
    predict_file,
)


def answers(classes: list[int], num_classes: int = 3) -> np.ndarray:
    """Probabilities that are 0.8 at the given classes."""
    probs = np.full((len(classes), num_classes), 0.2 / (num_classes - 1), "float32")
    probs[np.arange(len(classes)), classes] = 0.8
    return probs


@pytest.mark.parametrize(
    ("name", "values"),
    [("0..255", [0, 51, 255]), ("0..1", [0, 0.2, 1]), ("-1..1", [-1, -0.6, 1])],
)
def test_ranges_of_foreign_models(name: str, values: list[float]) -> None:
    image = np.array([[[0, 51, 255]]], "uint8")
    seen = RANGES[name].apply(image)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen[0, 0], values, atol=1e-6)


def test_mean_and_std_are_per_channel() -> None:
    pixels = pixels_from_options(None, "10,20,30", "2")
    assert pixels == Pixels(mean=(10, 20, 30), std=(2, 2, 2))
    assert pixels.apply(np.array([[30, 30, 30]], "uint8")).tolist() == [[10, 5, 0]]
    assert pixels_from_options(None, None, None) is None  # nothing was said


@pytest.mark.parametrize(
    "options",
    [("0..7", None, None), ("0..1", "3", None), (None, "1,2", None), (None, None, "1,0,1")],
)
def test_pixels_that_make_no_sense_are_refused(options: tuple[str | None, ...]) -> None:
    with pytest.raises(UserError):
        pixels_from_options(*options)


def test_probabilities_stay_and_logits_go_through_softmax() -> None:
    probs = np.array([[0.25, 0.75], [1.0, 0.0]], "float32")
    np.testing.assert_array_equal(as_probabilities(probs), probs)
    logits = np.array([[0.0, np.log(3)], [-5.0, -5.0]], "float32")
    np.testing.assert_allclose(as_probabilities(logits), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)


def test_int8_probabilities_of_many_classes_are_not_taken_for_logits() -> None:
    # 200 classes share the rest evenly, each share rounded to steps of 1/256:
    # 0.5 / 200 is 0.64 steps and becomes one, 0.3 / 200 is 0.38 steps and becomes none.
    probs = np.zeros((2, 201), "float32")
    probs[0], probs[0, 7] = 1 / 256, 0.5
    probs[1, 7] = 0.7
    kept = as_probabilities(probs)
    assert kept[0, 7] == pytest.approx(0.5 / (0.5 + 200 / 256))
    assert kept[1, 7] == 1


def test_a_row_that_was_rounded_to_zeros_knows_nothing() -> None:
    probs = np.zeros((2, 600), "float32")
    probs[0, 7] = 1
    np.testing.assert_allclose(as_probabilities(probs)[1], 1 / 600, rtol=1e-6)


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
    with pytest.raises(UserError, match=r"bad\.onnx is no model that can be run here"):
        predict_file(tmp_path / "bad.onnx", [])


def test_answers_that_are_no_numbers_fail(
    onnx_file: Path, colours: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Overflown:
        num_classes = 2

        def predict(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 2), np.nan, "float32")

    monkeypatch.setattr(module, "open_model", lambda *_: Overflown())
    with pytest.raises(StepFailed, match="NaN"):
        predict_file(onnx_file, [colours])


def test_scores_of_four_photos_by_hand() -> None:
    labels = np.array([0, 1, 2, 2])
    probs = answers([0, 1, 2, 0])
    scores = accuracy(probs, labels, split="test", teacher_probs=answers([0, 1, 1, 0]))
    assert scores["split"] == "test"
    assert (scores["n"], scores["top1"], scores["top5"]) == (4, 0.75, 1.0)
    # Wilson, 3 of 4: (0.75 + 1.9207/4 +- 1.96 sqrt(0.1875/4 + 3.8415/64)) / (1 + 3.8415/4)
    assert (scores["top1_low"], scores["top1_high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert scores["nll"] == pytest.approx(-(3 * np.log(0.8) + np.log(0.1)) / 4, rel=1e-5)
    assert scores["ece"] == pytest.approx(0.05, abs=1e-6)
    assert scores["agreement_with_teacher"] == 0.75


def test_without_a_teacher_there_is_no_agreement() -> None:
    scores = accuracy(answers([0]), np.array([0]), split="validation")
    assert scores["agreement_with_teacher"] is None


def test_a_file_against_its_source_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 0])
    source = answers([0, 0, 0, 0, 1])  # 4 right
    ours = answers([0, 0, 1, 1, 2])  # 2 right; three answers changed, two for the worse
    student = answers([0, 0, 0, 1, 1])  # 3 right
    result = compare(ours, source, labels, student_probs=student)
    assert result["num_flips"] == 3
    assert result["agreement_with_source"] == pytest.approx(0.4)
    assert result["drop_vs_source"] == pytest.approx(0.4)
    assert result["drop_vs_student"] == pytest.approx(0.2)
    assert result["mcnemar_p"] == pytest.approx(0.5)  # 2 * (1/2)**2
    assert compare(ours, source, labels)["drop_vs_student"] is None
