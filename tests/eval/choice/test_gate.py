"""The gate lets a file pass that holds its limits, and no other."""

import json
from pathlib import Path

import pytest

from configs.errors import UserError
from eval.choice.gate import chosen_row, shortfalls

ROW = {
    "name": "a.tflite",
    "file_bytes": 1_000_000,
    "accuracy": {"top1": 0.9, "drop_vs_source": 0.01},
    "latency": [{"p90_ms": 2.5}, {"p90_ms": 99.0}],
}
REPORT = {"files": [ROW, {**ROW, "name": "b.onnx"}], "verdict": {"chosen_file": "b.onnx"}}


@pytest.mark.parametrize(
    ("limits", "number"),
    [
        ({"min_top1": 0.9}, 0),
        ({"min_top1": 0.901}, 1),
        ({"max_drop": 0.01}, 0),
        ({"max_drop": 0.0}, 1),
        ({"max_p90_ms": 2.5}, 0),
        ({"max_p90_ms": 2.4}, 1),
        ({"max_bytes": 1_000_000}, 0),
        ({"max_bytes": 999_999}, 1),
        ({"min_top1": 1.0, "max_drop": 0.0, "max_p90_ms": 1.0, "max_bytes": 1}, 4),
    ],
)
def test_a_limit_is_held_up_to_itself(limits: dict[str, float], number: int) -> None:
    assert len(shortfalls(ROW, **limits)) == number


def test_a_shortfall_says_what_was_found_and_what_was_wanted() -> None:
    assert shortfalls(ROW, min_top1=0.95) == ["top-1 0.9000 is below 0.9500"]
    assert shortfalls(ROW, max_bytes=2_000) == ["size 1,000,000 bytes is above 2,000 bytes"]


def test_no_limit_and_no_measurement_are_mistakes() -> None:
    with pytest.raises(UserError, match="no limit is given"):
        shortfalls(ROW)
    with pytest.raises(UserError, match=r"p90 of a\.tflite was not measured"):
        shortfalls({**ROW, "latency": []}, max_p90_ms=1.0)


def test_the_chosen_file_is_meant_unless_another_is_named() -> None:
    assert chosen_row(REPORT, None)["name"] == "b.onnx"
    assert chosen_row(REPORT, "a.tflite")["name"] == "a.tflite"
    with pytest.raises(UserError, match=r"no file c\. Its files: a\.tflite, b\.onnx"):
        chosen_row(REPORT, "c")


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


def test_a_run_without_a_report_is_told(program, tmp_path: Path) -> None:
    outcome = program("evaluate", "gate", tmp_path, "--min-top1", "0.5")
    assert outcome.code == 2
    assert "report.json is missing" in outcome.err


@pytest.mark.parametrize("report", [{}, {"verdict": None, "files": []}, []])
def test_what_is_no_report_is_misuse_and_not_a_shortfall(report: object) -> None:
    with pytest.raises(UserError, match="no report of today's") as caught:
        chosen_row(report, None)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
