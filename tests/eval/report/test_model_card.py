"""The model card, its front matter read by a YAML parser."""

import copy
from typing import Any

import pytest
import yaml

from configs.schema import Experiment
from eval.report.model_card import plain, render_card

EVIL = '`a` | <b>"${x\\ *c*: [d](e)\n---'
SCORES = {"n": 50, "top1": 0.8, "top1_low": 0.7, "top1_high": 0.9, "macro_f1": 0.75, "ece": 0.04}
TEACHER = {"backbone": "efficientnet_b4", "image_size": 380, "epochs": 3}


def file_row(name: str, top1: float) -> dict[str, Any]:
    return {
        "name": name, "format": name.split(".")[-1], "recipe": "tflite.int8",
        "file_bytes": 4_000_000, "zip_bytes": 3_000_000,
        "accuracy": {**SCORES, "top1": top1, "agreement_with_source": 0.95,
                     "detectable_drop": 0.02},
        "latency": [{"p50_ms": 1.25, "p90_ms": 2.5, "num_threads": 2, "num_runs": 30}],
    }  # fmt: skip


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "run": EVIL, "created": "2026-01-01T00:00:00+00:00", "seed": 7,
        "machine": {"cpu": "a cpu"}, "provenance": {"packages": {"potstill": "0.1.0"}},
        "data": {"source": f"folder {EVIL}", "classes": ["daisy", EVIL], "num_train": 100,
                 "num_validation": 20, "num_test": 50, "num_unlabelled": 0, "num_skipped": 1},
        "models": [
            {"name": "teacher", "backbone": "efficientnet_b4", "accuracy": SCORES},
            {"name": "student", "backbone": "efficientnet_b0", "input_shape": [224, 224, 3],
             "accuracy": SCORES},
        ],
        "files": [file_row("a.tflite", 0.81), file_row("b.onnx", 0.79)],
        "distillation": {"sentence": "It helped by 2 points."},
        "verdict": {"chosen_file": "b.onnx", "reason": "the fastest"},
    }  # fmt: skip


def experiment(**changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "data": {"path": "photos"},
        "teacher": TEACHER,
        "student": {"backbone": "efficientnet_b0", "image_size": 224, "epochs": 5},
        **changes,
    }
    return Experiment.model_validate(values)


def parts(card: str) -> tuple[dict[str, Any], str]:
    """Front matter, as YAML reads it, and the Markdown."""
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_front_matter_holds_the_scores_of_the_chosen_file(report: dict[str, Any]) -> None:
    front, _ = parts(render_card(report, experiment()))
    assert front["pipeline_tag"] == "image-classification"
    assert front["library_name"] == "litert"
    assert {"onnx", "tflite"} <= set(front["tags"])
    assert "license" not in front  # the user chooses it
    (index,) = front["model-index"]
    assert index["name"] == EVIL
    (result,) = index["results"]
    assert result["dataset"]["name"] == f"folder {EVIL}"
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [
        ("accuracy", 0.79), ("f1", 0.75),
    ]  # fmt: skip
    assert result["metrics"][0]["name"] == "top-1 of b.onnx"


def test_a_run_that_chose_nothing_shows_its_student(report: dict[str, Any]) -> None:
    report["verdict"] = {"chosen_file": None, "reason": "none is good enough"}
    front, text = parts(render_card(report, experiment()))
    assert front["model-index"][0]["results"][0]["metrics"][0]["name"] == "top-1 of student"
    assert "★" not in text


def test_the_text_says_how_it_was_made_and_measured(report: dict[str, Any]) -> None:
    _, text = parts(render_card(report, experiment(compress={"output": "logits"})))
    for sentence in (
        "Teacher: efficientnet\\_b4 at 380 pixels, 3 epochs; top-1 80.0 %",
        "Student: efficientnet\\_b0 at 224 pixels, 5 epochs; top-1 80.0 %",
        "0.5 × kd",
        "100 training, 20 validation and 50 test photos; 1 files could not be used",
        "Output: logits",
        "79.0 % (70.0 % to 90.0 %) | 95.0 % | 1.25 | 2.50 |",
        "a cpu with 2 threads",
        "detected 80 % of the time is 2.0 points",
        "It helped by 2 points.",
    ):
        assert sentence in text


def test_a_given_teacher_is_named(report: dict[str, Any]) -> None:
    given = {"files": [{"path": "somewhere/resnet_18.onnx", "image_size": 224}]}
    _, text = parts(render_card(report, experiment(teacher=given)))
    assert "Teacher, given as files: resnet\\_18.onnx at 224 pixels; top-1 80.0 %" in text


def test_names_do_no_harm(report: dict[str, Any]) -> None:
    harmless = copy.deepcopy(report)
    harmless["run"] = harmless["data"]["source"] = harmless["data"]["classes"][1] = "x"
    _, text = parts(render_card(report, experiment()))
    _, expected = parts(render_card(harmless, experiment()))
    assert text.count("\n") == expected.count("\n")
    assert "\n---" not in text
    assert text.count(plain(EVIL)) == 3
    assert plain(EVIL) == '\\`a\\` \\| \\<b\\>"\\${x\\\\ \\*c\\*: \\[d\\](e) ---'


def test_a_card_without_times_does_not_name_a_machine(report: dict[str, Any]) -> None:
    for row in report["files"]:
        row["latency"] = []
    _, text = parts(render_card(report, experiment()))
    assert "| 95.0 % | – | – |" in text
    assert "timed on" not in text


def test_the_card_says_what_a_file_needs_and_which_operators_are_slow(
    report: dict[str, Any],
) -> None:
    report["files"][0]["runtime"] = {"tflite": "2.17"}
    others = {"GELU": 18, "SOFTMAX": 1}
    report["files"][0]["latency"][0]["delegate"] = {"name": "XNNPACK", "others": others}
    report["files"][1]["runtime"] = {"opset": 17, "ir": 8}
    _, text = parts(render_card(report, experiment()))
    rows = [line for line in text.splitlines() if line.startswith(("| a.tflite", "| b.onnx"))]
    assert [row.split(" | ")[-1] for row in rows] == ["TFLite 2.17 |", "opset 17, IR 8 |"]
    assert "a.tflite has operators that XNNPACK leaves to slower code: 18 GELU, 1 SOFTMAX." in text
    assert "b.onnx has operators" not in text


def test_photos_without_labels_that_were_left_out_are_said(report: dict[str, Any]) -> None:
    report["data"] |= {"num_unlabelled": 40, "num_left_out": 31}
    _, text = parts(render_card(report, experiment()))
    assert "40 without labels" in text
    assert "The student did not learn from 31 of 40 photos without labels" in text
