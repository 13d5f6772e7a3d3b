"""The gate passes a file that holds its limits, and no other."""

import json
from pathlib import Path

import pytest

from configs.errors import UserError
from eval.choice.budget import Limits
from eval.choice.gate import gate_shortfalls, reported_file

FILE = {
    "name": "a.tflite",
    "file_bytes": 1_000_000,
    "accuracy": {"top1": 0.9, "drop_vs_source": 0.01},
    "latency": [{"p90_ms": 2.5}, {"p90_ms": 99.0}],
}
REPORT = {"files": [FILE, {**FILE, "name": "b.onnx"}], "verdict": {"chosen_file": "b.onnx"}}


@pytest.mark.parametrize(
    ("limits", "reasons"),
    [
        (Limits(min_top1=0.9), []),
        (Limits(max_drop=0.01), []),
        (Limits(max_drop=0.005), ["on the test photos it loses 1.00 points, 0.50 allowed"]),
        (Limits(max_p90_ms=2.5), []),
        (Limits(max_p90_ms=2.4), ["it takes 2.50 ms in 90 % of its runs, 2.4 allowed"]),
    ],
)
def test_the_test_photos_and_the_first_device_count(limits: Limits, reasons: list[str]) -> None:
    assert gate_shortfalls(FILE, limits) == reasons


def test_a_missing_limit_or_measurement_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no limit is given"):
        gate_shortfalls(FILE, Limits())
    with pytest.raises(UserError, match=r"p90 of a\.tflite was not measured"):
        gate_shortfalls({**FILE, "latency": []}, Limits(max_p90_ms=1.0))


def test_the_chosen_file_is_checked_unless_another_is_named() -> None:
    assert reported_file(REPORT, None)["name"] == "b.onnx"
    assert reported_file(REPORT, "a.tflite")["name"] == "a.tflite"
    with pytest.raises(UserError, match=r"no file c\. Its files: a\.tflite, b\.onnx"):
        reported_file(REPORT, "c")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--min-top1", "0.85"], 0),
        (["--min-top1", "0.85", "--max-p90-ms", "1"], 1),
        ([], 2),
        (["--min-top1", "90"], 2),
        (["--min-top1", "0.5", "--file", "c.tflite"], 2),
    ],
)
def test_exit_codes_tell_pass_fail_and_misuse(
    program, tmp_path: Path, words: list[str], code: int
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    outcome = program("evaluate", "gate", tmp_path, *words)
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err


def test_a_run_without_a_report_is_a_mistake(program, tmp_path: Path) -> None:
    outcome = program("evaluate", "gate", tmp_path, "--min-top1", "0.5")
    assert outcome.code == 2
    assert "report.json is missing" in outcome.err


@pytest.mark.parametrize("report", [{}, {"verdict": None, "files": []}, []])
def test_an_incomplete_report_is_a_mistake_and_not_a_shortfall(report: object) -> None:
    with pytest.raises(UserError, match="no report of today's") as error:
        reported_file(report, None)  # type: ignore[arg-type]
    assert error.value.exit_code == 2
