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
        "drop_vs_student": None, "mcnemar_p": 0.0001, "half_point_power": 0.07,
        "detectable_drop": 0.061,
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
    assert 'class="chosen"' in page


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


def test_what_distillation_was_worth_is_told(report: dict, details: Details) -> None:
    report["distillation"] = {"sentence": "Distillation helped: a <b> more."}
    assert "Distillation helped: a &lt;b&gt; more." in render_html(report, details)
    assert "Distillation helped" in render_markdown(report, details)


def test_a_bar_in_a_name_breaks_no_table(report: dict, details: Details) -> None:
    report["files"][0]["name"] = "a|b.tflite"
    report["verdict"]["chosen_file"] = "a|b.tflite"
    assert "a\\|b.tflite" in render_markdown(report, details)


def test_a_tag_in_a_name_is_no_tag_in_markdown(report: dict, details: Details) -> None:
    report["run"] = SCRIPT
    assert "# \\<script>" in render_markdown(report, details)


def test_a_run_of_another_day_still_has_a_page(report: dict) -> None:
    # What an older or a partial run lacks: no models but one, no scores, no times, no verdict.
    report["models"] = [{"name": "student", "backbone": "efficientnet_b0"}]
    report["files"] = [{"name": "only.tflite", "path": "only.tflite"}]
    report["machine"], report["verdict"] = {}, None
    empty = Details(histories={"student": [{"loss": 1.0}]}, confusion=None, disagreements=[])
    for text in (render_html(report, empty), render_markdown(report, empty)):
        assert "only.tflite" in text
        assert "None" not in text
        assert "Undefined" not in text


def test_a_chosen_file_without_a_teacher_or_times_is_shown(report: dict, details: Details) -> None:
    for row in report["files"]:
        row["latency"] = []
        del row["accuracy"]["drop_vs_student"]
        row["accuracy"]["top5"] = float("nan")
    report["models"] = report["models"][1:2]
    page = render_html(report, details)
    assert "Ship small.tflite" in page
    assert "points against the float student" not in page
    assert "nan %" not in page
    assert "Accuracy against latency" not in page


def test_the_chosen_file_is_held_against_the_float_file(report: dict, details: Details) -> None:
    # 16 MB / 4 MB = 4.0; 7.5 ms / 1.25 ms = 6.0
    report["files"][1] |= {"recipe": "tflite.float32", "file_bytes": 16_000_000}
    said = "4.0 × smaller and 6.0 × faster than big.tflite"
    assert said in render_html(report, details)
    assert said in render_markdown(report, details)


def test_times_of_two_devices_are_never_compared(report: dict, details: Details) -> None:
    report["files"][1] |= {"recipe": "tflite.float32", "file_bytes": 16_000_000}
    report["files"][1]["latency"] = [{**latency(99.0), "device": "phone"}]
    page = render_html(report, details)
    assert "4.0 × smaller than big.tflite" in page
    assert "Other devices and settings" in page
    assert page.count("99.00") == 1


def test_a_photo_that_is_gone_is_said_so(report: dict, details: Details, tmp_path: Path) -> None:
    gone = [Disagreement(tmp_path / "gone.png", "a", "a", 0.9, LONG, 0.8)]
    (tmp_path / "empty.png").touch()
    gone.append(Disagreement(tmp_path / "empty.png", "a", "a", 0.9, LONG, 0.8))
    page = render_html(report, Details({}, None, gone, "small.tflite", 2))
    assert page.count("photo not found") == 2


def test_no_more_than_twelve_photos_are_shown(report: dict, details: Details) -> None:
    many = Details({}, None, details.disagreements * 3, "small.tflite", 36)
    page = render_html(report, many)
    assert page.count("data:image/jpeg") == 12
    assert "12 of 36" in page


def test_the_commonest_mistakes_are_named_over_all_classes(report: dict) -> None:
    # 30 classes, 25 of them shown: the last one is mistaken most.
    report["data"]["classes"] = [f"class {i}" for i in range(30)]
    counts = [[9 if i == j else 0 for j in range(30)] for i in range(30)]
    counts[29][0], counts[29][29] = 5, 0
    page = render_html(report, Details({}, counts, []))
    assert "class 29 taken for class 0 (5)" in page
    assert "The 25 most frequent of 30 classes." in page


def test_epochs_without_a_number_are_left_out(report: dict) -> None:
    rows = [{"epoch": 1.0, "val_loss": None}, {"epoch": 2.0, "val_loss": float("nan")}, {}]
    page = render_html(report, Details({"student": rows, "control": []}, None, []))
    assert "<h2>Training</h2>" not in page


def test_the_page_says_what_the_test_photos_could_have_shown(
    report: dict, details: Details
) -> None:
    said = "100 test photos would show it in 7 of 100 cases; what they show in 80 of 100 is a loss"
    for page in (render_html(report, details), render_markdown(report, details)):
        assert said in " ".join(page.split())
