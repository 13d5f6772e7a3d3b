import re
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from eval.report.failures import Answer, Failure, Gallery, confusion_table
from eval.report.html import Details, render_html, render_markdown

SCRIPT = "<script>alert(1)</script>"
LONG = "x" * 200
CLASSES = ["a", SCRIPT, LONG]


def accuracy(top1: float) -> dict:
    return {
        "split": "test", "n": 100, "top1": top1, "top1_low": top1 - 0.05, "top1_high": top1 + 0.05,
        "top5": 1.0, "macro_f1": top1, "nll": 0.5, "ece": 0.1, "agreement_with_teacher": None,
        "ece_low": 0.0, "ece_high": 0.15, "drop_low": -0.02, "drop_high": 0.04,
        "confidence_drift": -0.021, "confidence_drift_low": -0.03, "confidence_drift_high": -0.01,
        "probability_moved": 0.05,
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
        "data": {"source": "folder", "classes": CLASSES, "num_train": 1,
                 "num_validation": 1, "num_test": 100, "num_skipped": 0},
        "models": [model("teacher", 0.95), model("student", 0.9), model("control", 0.7)],
        "files": files,
        "verdict": {"chosen_file": "small.tflite", "reason": "the fastest"},
    }  # fmt: skip


def failure(photo: Path) -> Failure:
    return Failure(photo, SCRIPT, [Answer(SCRIPT, "a", 0.9), Answer("file", LONG, 0.8)])


@pytest.fixture
def details(tmp_path: Path) -> Details:
    photo = tmp_path / "a photo.png"
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(photo)
    row = {"epoch": 1.0, "val_accuracy": 0.5, "val_loss": 1.0}
    return Details(
        histories={"teacher": [row], "student": [row, {**row, "epoch": 2.0}]},
        confusion=confusion_table(np.array([0, 1, 0, 2]), np.array([0, 1, 2, 2]), CLASSES),
        galleries=[Gallery(f"Mistakes of {SCRIPT}", [failure(photo)] * 12, 40)],
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


def tables(report: dict) -> dict:
    """A report with every section, and with hostile text for every name."""
    for number, name in enumerate((SCRIPT, LONG)):
        report["files"][number] |= {
            "name": name, "path": name, "source": SCRIPT, "recipe": SCRIPT, "sha256": "0" * 64,
            "flips_by_class": [
                {"class": c, "num_photos": 9, "num_changed": 4, "num_lost": 2, "num_won": 1}
                for c in (SCRIPT, LONG)
            ],
        }  # fmt: skip
    drops = {
        f"{kind}_drop{end}": value
        for kind in ("clean", "corrupted", "extra")
        for end, value in (("", 0.03), ("_low", 0.01), ("_high", 0.05))
    }
    row = {"clean_top1": 0.9, "corrupted_top1": 0.6, "top1": {"noise": [0.8, 0.7, 0.6, 0.5, 0.4]}}
    step = {
        "kind": "recipe", "from": SCRIPT, "to": LONG, "drop": 0.031, "drop_low": 0.01,
        "drop_high": 0.05, "bytes_before": 16_000_000, "bytes_after": 4_000_000, "ms_before": 3.0,
        "ms_after": None, "on_the_way": True,
    }  # fmt: skip
    return report | {
        "run": SCRIPT,
        "verdict": {"chosen_file": SCRIPT, "reason": SCRIPT},
        "steps": [step],
        "distillation": {
            "sentence": SCRIPT, "num_seeds": 2, "student_top1": [0.9, 0.8],
            "control_top1": [0.8, 0.8], "mean_gain": 0.05, "gain_low": 0.01,
            "gain_high": 0.09, "p": 0.01,
        },
        "robustness": {
            "num_photos": 50, "kinds": ["noise"], "num_strengths": 5, "sentence": SCRIPT,
            "rows": [{"name": "student", **row}, {"name": SCRIPT, **row, **drops}],
        },
        "provenance": {"config_sha256": "c" * 64, "photos_sha256": "d" * 64},
    }  # fmt: skip


def test_names_do_no_harm(report: dict, details: Details) -> None:
    report = tables(report)
    report["machine"]["cpu"] = report["data"]["source"] = SCRIPT
    page, markdown = render_html(report, details), render_markdown(report, details)
    assert page.count("<script>") == 1  # the page's own
    assert SCRIPT not in page
    assert page.count("&lt;script&gt;") > 15
    assert not re.search(r"(?<!\\)<script", markdown)  # a backslash before it makes it text
    assert "\\<script\\>" in markdown


def test_a_name_of_200_characters_is_cut_in_narrow_places(report: dict, details: Details) -> None:
    page = render_html(tables(report), details)
    shown = re.sub(r'(title|data-value|aria-label)="[^"]*"|<title>.*?</title>', "", page)
    matrix = shown[shown.index('class="confusion"') : shown.index("</main>")]
    confusion = matrix[: matrix.index("</table>")]
    assert LONG not in confusion
    assert "x" * 30 in confusion
    photos = shown[shown.index('class="photos"') :]
    assert LONG not in photos[: photos.index("</ul>")]


def test_the_page_shows_what_each_step_cost(report: dict, details: Details) -> None:
    page = render_html(tables(report), details)
    step = page[page.index("What each step of compression cost") :]
    for said in ("+3.1", "+1.0 to +5.0", "16.00 MB", "4.00 MB", "3.00"):
        assert said in step


def test_changed_answers_are_counted_by_class(report: dict, details: Details) -> None:
    page = render_html(tables(report), details)
    table = page[page.index("Answers changed by compression") :]
    cells = re.findall(r"<td>(\d+)</td>", table[: table.index("</table>")])
    assert cells[:5] == ["9", "4", "2", "1", "1"]  # photos, changed, lost, won, wrong to wrong


def test_calibration_has_its_interval_and_its_drift(report: dict, details: Details) -> None:
    page = render_html(report, details)
    table = page[page.index("Can its confidence be trusted?") :]
    for said in ("0.100<small>0.000 – 0.150", "−2.1<small>−3.0 to −1.0", "5.0 %"):
        assert said in table


def test_corrupted_photos_have_a_chart_and_a_table(report: dict, details: Details) -> None:
    page = render_html(tables(report), details)
    section = page[page.index("Does compression cost more on bad photos?") :]
    assert "file ends at 0.4" in section
    assert "+3.0<small>+1.0 to +5.0" in section
    assert "Does compression cost more" not in render_html({**report, "robustness": None}, details)


def test_every_seed_of_student_and_control_is_shown(report: dict, details: Details) -> None:
    page = render_html(tables(report), details)
    seeds = page[page.index("Top-1 of student and control on the test photos, by training seed") :]
    assert "+10.0" in seeds[: seeds.index("</table>")]


def test_every_table_has_a_caption_and_every_picture_a_text(report: dict, details: Details) -> None:
    page = render_html(tables(report), details)
    assert page.count("<table") == page.count("<caption>")
    assert page.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]+', page))
    assert page.count("<svg") == len(re.findall(r'<svg [^>]*role="img" aria-label="[^"]+', page))


def test_sorted_columns_have_plain_numbers(report: dict, details: Details) -> None:
    page = render_html(report, details)
    table = page[page.index('<table class="sortable">') : page.index("</table>")]
    assert 'data-value="0.8"' in table
    assert 'data-value="4000000"' in table
    assert "aria-sort" in page  # set by the script, which the page brings with it
    assert "<script src" not in page


def test_a_report_with_little_in_it_is_shown(report: dict) -> None:
    report["models"] = report["models"][:1]
    for row in report["files"]:
        row["latency"] = []
        row["accuracy"] |= {"drop_vs_source": None, "mcnemar_p": None, "num_flips": None}
    report["verdict"] = {"chosen_file": None, "reason": "nothing to choose from"}
    empty = Details(histories={}, confusion=None, galleries=[])
    for text in (render_html(report, empty), render_markdown(report, empty)):
        assert "No file is chosen" in text
        assert "None" not in text


def test_both_reports_show_what_distillation_was_worth(report: dict, details: Details) -> None:
    report["distillation"] = {"sentence": "Distillation helped: a <b> more."}
    assert "Distillation helped: a &lt;b&gt; more." in render_html(report, details)
    assert "Distillation helped" in render_markdown(report, details)


def test_a_bar_in_a_name_breaks_no_table(report: dict, details: Details) -> None:
    report["files"][0]["name"] = "a|b.tflite"
    report["verdict"]["chosen_file"] = "a|b.tflite"
    assert "a\\|b.tflite" in render_markdown(report, details)


def test_markdown_names_the_device_of_its_times(report: dict, details: Details) -> None:
    for file in report["files"]:
        file["latency"][0]["device"] = "ssh:board"
    said = " a negative drop is a gain. The times are those on ssh:board, with 1 thread.\n\n"
    assert said in render_markdown(report, details)
    for file in report["files"]:
        file["latency"] = []
    assert " a negative drop is a gain.\n\n" in render_markdown(report, details)


def test_a_tag_in_a_name_is_no_tag_in_markdown(report: dict, details: Details) -> None:
    report["run"] = SCRIPT
    assert "# \\<script\\>" in render_markdown(report, details)


def test_a_report_of_an_older_version_still_has_a_page(report: dict) -> None:
    # One model, and no scores, times or verdict.
    report["models"] = [{"name": "student", "backbone": "efficientnet_b0"}]
    report["files"] = [{"name": "only.tflite", "path": "only.tflite"}]
    report["machine"], report["verdict"] = {}, None
    empty = Details(histories={"student": [{"loss": 1.0}]}, confusion=None, galleries=[])
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


def test_the_chosen_file_is_compared_with_the_float_file(report: dict, details: Details) -> None:
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


def test_a_missing_photo_is_shown_as_missing(
    report: dict, details: Details, tmp_path: Path
) -> None:
    (tmp_path / "empty.png").touch()
    gone = [failure(tmp_path / "gone.png"), failure(tmp_path / "empty.png")]
    page = render_html(report, Details({}, None, [Gallery("Mistakes", gone, 2)]))
    assert page.count("photo not found") == 2


def test_the_most_frequent_mistakes_come_from_all_classes(report: dict) -> None:
    classes = [f"class {i}" for i in range(30)]
    # 25 classes are shown. The last class has fewest photos, and all of its answers are wrong.
    labels = np.repeat(np.arange(30), [9] * 29 + [5])
    answers = np.where(labels == 29, 0, labels)
    page = render_html(report, Details({}, confusion_table(answers, labels, classes), []))
    assert "class 29 taken for class 0 (5)" in page
    assert "The 25 most frequent of 30 classes." in page


def test_epochs_without_a_number_are_left_out(report: dict) -> None:
    rows = [{"epoch": 1.0}, {"epoch": 2.0, "val_loss": float("nan")}, {}]
    page = render_html(report, Details({"student": rows, "control": []}, None, []))
    assert "<h2>Training</h2>" not in page


def test_the_page_says_what_the_test_photos_could_have_shown(
    report: dict, details: Details
) -> None:
    sentence = "With 100 test photos, a loss of 0.5 points would be detected 7 % of the time."
    for page in (render_html(report, details), render_markdown(report, details)):
        assert sentence in " ".join(page.split())


@pytest.mark.parametrize("name", ["a\\<b>", "`x` *y* [z](http://a)", "a | b", "# heading", "a\nb"])
def test_a_name_is_only_text_in_markdown(report: dict, details: Details, name: str) -> None:
    """Rendered by an independent parser, the heading is the name and nothing else."""
    markdown = render_markdown({**report, "run": name}, details)
    tokens = MarkdownIt().parse(markdown)
    first = next(i for i, token in enumerate(tokens) if token.type == "heading_open")
    children = tokens[first + 1].children or []
    assert {child.type for child in children} == {"text"}
    assert "".join(child.content for child in children) == " ".join(name.split())


def test_photos_that_the_student_left_out_are_one_sentence(report: dict) -> None:
    empty = Details(histories={}, confusion=None, galleries=[])
    sentence = "The student did not learn from 31 of 40 photos without labels, because its teacher"
    for render in (render_html, render_markdown):
        assert "did not learn from" not in render(report, empty)  # an older report
    report["data"] |= {"num_unlabelled": 40, "num_left_out": 0}
    for render in (render_html, render_markdown):
        assert "did not learn from" not in render(report, empty)
    report["data"]["num_left_out"] = 31
    for render in (render_html, render_markdown):
        assert render(report, empty).count(sentence) == 1
