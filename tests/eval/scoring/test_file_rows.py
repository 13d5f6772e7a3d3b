"""The row of a file, and the keys that it has in report.json."""

from pathlib import Path

import numpy as np

from configs.records import to_json
from eval.needs import Runtime
from eval.scoring.file_rows import References, file_row
from eval.scoring.predictions import Photos

KEYS = {
    "name", "path", "format", "recipe", "source", "file_bytes", "zip_bytes", "parity", "accuracy",
    "latency", "runtime",
}  # fmt: skip
ACCURACY_KEYS = {
    "split", "n", "top1", "top1_low", "top1_high", "top5", "macro_f1", "nll", "ece", "ece_low",
    "ece_high", "agreement_with_teacher",
}  # fmt: skip
COMPARISON_KEYS = {
    "agreement_with_source", "num_flips", "drop_vs_source", "drop_low", "drop_high",
    "drop_vs_student", "mcnemar_p", "confidence_drift", "confidence_drift_low",
    "confidence_drift_high", "probability_moved", "half_point_power", "detectable_drop",
}  # fmt: skip
LABELS = np.array([0, 1])
PARENT = np.array([[0.9, 0.1], [0.2, 0.8]])
FILE = np.array([[0.9, 0.1], [0.6, 0.4]])


def row_in_json(folder: Path, references: References, recipe: str = "tflite.int8") -> dict:
    path = folder / "MODEL.TFLITE"
    path.write_bytes(bytes(1000))
    row = file_row(
        path,
        recipe=recipe,
        parent="student",
        probs=FILE,
        photos=Photos("test", [], LABELS),
        references=references,
        latency=[],
        runtime=Runtime(opset=17, ir=8),
    )
    values: dict = to_json(row)
    return values


def test_scores_and_comparison_are_one_object_in_json(tmp_path: Path) -> None:
    row = row_in_json(tmp_path, References(parent=PARENT, student=PARENT))
    assert set(row) == KEYS
    assert set(row["accuracy"]) == ACCURACY_KEYS | COMPARISON_KEYS
    assert row["accuracy"]["drop_vs_source"] == row["accuracy"]["drop_vs_student"] == 0.5
    assert (row["format"], row["source"], row["file_bytes"]) == ("tflite", "student", 1000)
    assert row["zip_bytes"] < 100
    assert row["runtime"] == {"opset": 17, "ir": 8}


def test_without_a_parent_the_keys_of_the_comparison_are_null(tmp_path: Path) -> None:
    row = row_in_json(tmp_path, References())
    assert set(row["accuracy"]) == ACCURACY_KEYS | COMPARISON_KEYS
    assert {row["accuracy"][key] for key in COMPARISON_KEYS} == {None}


def test_only_float_files_have_a_parity(tmp_path: Path) -> None:
    references = References(parent=PARENT)
    assert row_in_json(tmp_path, references)["parity"] is None
    parity = row_in_json(tmp_path, references, recipe="onnx.float32")["parity"]
    assert parity == {"max_abs_diff": 0.4, "argmax_equal": 1, "n": 2}
