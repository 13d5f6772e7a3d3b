from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.page import Details, Disagreement, render_html, render_markdown

SCRIPT = "<script>alert(1)</script>"
LONG = "x" * 200


def accuracy(top1: float) -> dict:
    return {
        "split": "test", "n": 100, "top1": top1, "top1_low": top1 - 0.05, "top1_high": top1 + 0.05,
        "top5": 1.0, "macro_f1": top1, "nll": 0.5, "ece": 0.1, "agreement_with_teacher": None,
        "agreement_with_source": 0.9, "num_flips": 10, "drop_vs_source": 0.01,
        "drop_vs_student": None, "mcnemar_p": 0.0001,
    }  # fmt: skip


def latency(p50_ms: float) -> dict:
    return {
        "device": "local", "runtime": "litert", "num_threads": 1, "batch": 1, "num_warmup": 1,
        "num_runs": 9, "p50_ms": p50_ms, "p90_ms": 2.0, "p99_ms": 3.0, "mean_ms": 1.0,
        "load_ms": 5.0, "peak_rss_mib": 50.0,
    }  # fmt: skip


def model(name: str, top1: float) -> dict:
    return {
        "name": name, "backbone": "efficientnet_b0", "input_shape": [32, 32, 3],
        "num_parameters": 4_000_000, "num_macs": 8_000_000, "seconds_to_train": 100.0,
        "accuracy": accuracy(top1),
    }  # fmt: skip


@pytest.fixture
def report() -> dict:
    files = [
        {
            "name": name, "path": f"files/{name}", "format": "tflite", "recipe": "tflite.int8",
            "source": "student", "file_bytes": 4_000_000, "zip_bytes": 3_000_000, "parity": None,
            "accuracy": accuracy(top1), "latency": [latency(p50)],
        }
        for name, top1, p50 in (("small.tflite", 0.80, 1.25), ("big.tflite", 0.90, 7.5))
    ]  # fmt: skip
    return {
        "run": "flowers", "created": "2026-01-01T00:00:00+00:00", "seed": 1,
        "machine": {"cpu": "a cpu", "num_cores": 2, "isa": ["avx2"], "os": "Linux",
                    "python": "3.11", "packages": {"keras": "3.15"}},
        "data": {"source": "folder", "classes": ["a", SCRIPT, LONG], "num_train": 1,
                 "num_validation": 1, "num_test": 100, "num_skipped": 0},
        "models": [model("teacher", 0.95), model("student", 0.9), model("control", 0.7)],
        "files": files,
        "verdict": {"chosen_file": "small.tflite", "reason": "the fastest"},
    }  # fmt: skip


@pytest.fixture
def details(tmp_path: Path) -> Details:
    photo = tmp_path / "a photo.png"
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(photo)
    row = {"epoch": 1.0, "val_accuracy": 0.5, "val_loss": 1.0}
    return Details(
        histories={"teacher": [row], "student": [row, {**row, "epoch": 2.0}]},
        confusion=[[5, 1, 0], [0, 7, 0], [2, 0, 3]],
        disagreements=[Disagreement(photo, SCRIPT, "a", 0.9, LONG, 0.8)] * 12,
        disagreeing_file="small.tflite",
        num_disagreements=40,
    )


def test_the_page_says_what_to_ship_and_what_it_costs(report: dict, details: Details) -> None:
    page = render_html(report, details)
    assert "Ship small.tflite" in page
    assert "80.0 %" in page
    assert "1.25 ms" in page
    assert "12 of 40" in page


def test_nothing_is_fetched_and_the_page_is_small(report: dict, details: Details) -> None:
    page = render_html(report, details)
    assert "http" not in page
    assert len(page) < 1_000_000


def test_names_do_no_harm(report: dict, details: Details) -> None:
    assert SCRIPT not in render_html(report, details)
    assert "&lt;script&gt;" in render_html(report, details)


def test_a_report_with_little_in_it_is_shown(report: dict) -> None:
    report["models"] = report["models"][:1]
    for row in report["files"]:
        row["latency"] = []
        row["accuracy"] |= {"drop_vs_source": None, "mcnemar_p": None, "num_flips": None}
    report["verdict"] = {"chosen_file": None, "reason": "nothing to choose from"}
    empty = Details(histories={}, confusion=None, disagreements=[])
    for text in (render_html(report, empty), render_markdown(report, empty)):
        assert "No file is chosen" in text
        assert "None" not in text


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (0.7, "20.0 points above its labels-only control; their intervals do not overlap"),
        (0.89, "1.0 points above its labels-only control; their intervals overlap"),
        (0.9, "exactly as often right as its labels-only control"),
    ],
)
def test_the_control_is_told_without_overclaiming(
    report: dict, details: Details, control: float, said: str
) -> None:
    report["models"][2] = model("control", control)
    assert said in render_html(report, details)
    assert said in render_markdown(report, details)


def test_a_bar_in_a_name_breaks_no_table(report: dict, details: Details) -> None:
    report["files"][0]["name"] = "a|b.tflite"
    report["verdict"]["chosen_file"] = "a|b.tflite"
    assert "a\\|b.tflite" in render_markdown(report, details)
