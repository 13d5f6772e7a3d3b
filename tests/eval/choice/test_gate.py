"""The gate passes a file that holds its limits, and no other."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.run_dir import RunDir
from eval.choice.budget import Limits
from eval.choice.gate import gate_shortfalls
from eval.choice.stored_report import StoredFile, StoredLatency, StoredScores, load_report

FILE = StoredFile(
    "a.tflite",
    1_000_000,
    StoredScores(top1=0.9, drop=0.01),
    [StoredLatency(p90_ms=2.5), StoredLatency(p90_ms=99.0)],
)
ENTRY = {
    "name": "a.tflite",
    "file_bytes": 1_000_000,
    "accuracy": {"split": "test", "top1": 0.9, "drop_vs_source": 0.01},
    "latency": [{"p90_ms": 2.5, "runtime": "litert 2.3.0"}],
}
REPORT = {
    "run": "mine",
    "machine": {"cpu": "a"},
    "data": {"num_test": 40},
    "models": [],
    "files": [ENTRY, {**ENTRY, "name": "b.onnx"}],
    "verdict": {"chosen_file": "b.onnx"},
}


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
        gate_shortfalls(replace(FILE, latency=[]), Limits(max_p90_ms=1.0))


def test_the_chosen_file_is_checked_unless_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    report = load_report(RunDir(tmp_path))
    assert report.file().name == "b.onnx"
    assert report.file("a.tflite").name == "a.tflite"
    with pytest.raises(UserError, match=r"no file c\. Its files: a\.tflite, b\.onnx"):
        report.file("c")


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


@pytest.mark.parametrize("report", [{}, {"verdict": None, "files": []}, [], {**REPORT, "files": 1}])
def test_an_incomplete_report_is_a_mistake_and_not_a_shortfall(
    tmp_path: Path, report: object
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match="not a report of this version") as error:
        load_report(RunDir(tmp_path))
    assert error.value.exit_code == 2
