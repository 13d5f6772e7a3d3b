"""Runs with few labels and more photos without, in the combinations that users choose."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from compress.config_choices import REGISTRIES
from configs.artifacts import read_json
from configs.loading.experiment import load_experiment
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.backbones import BACKBONES
from distill.data.pipelines import open_photo_store
from distill.labels.confidence import views_to_learn
from distill.training import epochs
from support import Outcome, save_photo

NUM_UNLABELLED = 40
BATCH = 8


@pytest.fixture(autouse=True)
def few_layers() -> Iterator[None]:
    """A backbone that compiles in a second. With weights, its strategy trains the head first."""

    @BACKBONES.add
    def few_layers(*, image_size: int, num_classes: int, weights: str | None = None):
        inputs = keras.Input((image_size, image_size, 3))
        x = layers.Rescaling(1 / 127.5, -1)(inputs)
        for _ in range(2):
            x = layers.Conv2D(8, 3, strides=4, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(num_classes, name="logits")(x))

    yield
    del BACKBONES._functions["few_layers"], BACKBONES._facts["few_layers"]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A teacher that tells the classes apart by how red a photo is, more or less surely."""
    inputs = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255, -0.5)(inputs))
    dense = layers.Dense(2)
    model = keras.Model(inputs, dense(x))
    dense.set_weights([np.array([[20, -20], [0, 0], [0, 0]], "float32"), np.zeros(2, "float32")])
    model.save(tmp_path / "teacher.keras")
    return tmp_path / "teacher.keras"


@pytest.fixture
def distil(program, photo_folder: Path, teacher: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Take steps of a run with 60 photos of two classes and 40 without labels.

    Settings are those of --set. The result is that of the last step, or of the first that fails.
    """
    for number in range(NUM_UNLABELLED):
        save_photo(tmp_path / "unlabelled" / f"{number}.png", seed=2000 + number)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
        data: {{path: {photo_folder}, unlabelled: {tmp_path / "unlabelled"}}}
        teacher: {{files: [{{path: {teacher}, image_size: 32}}]}}
        soft_labels: {{num_views: 3}}
        student: {{backbone: few_layers, image_size: 32, epochs: 2, batch_size: {BATCH}}}
        """
    )

    def take(*settings: str, steps: str = "data teacher label student") -> Outcome:
        words = [word for setting in settings for word in ("--set", setting)]
        for step in steps.split():
            outcome = program("distill", step, config, "--run", tmp_path / "run", *words)
            if outcome.code:
                break
        return outcome

    return take


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


HIDDEN = ["data.unlabelled=null", "data.labels_per_class=6"]
BOTH = HIDDEN[1:]
MIXED = ["student.labelled_share=0.25", "soft_labels.min_confidence=0.7"]
PRETRAINED = "student.backbone={name: few_layers, weights: imagenet}"


def stored_experiment(run: Path) -> Experiment:
    return load_experiment(run / "experiment.yaml", REGISTRIES)


def check_student(outcome: Outcome, run: Path, *, leaves_out: bool) -> None:
    assert outcome.code == 0, outcome.err
    manifest = read_json(run / "student" / "manifest.json")
    assert (manifest["num_left_out"] > 0) == leaves_out
    assert "num_left_out" not in read_json(run / "control" / "manifest.json")
    said = re.findall(r"(\d+) of \d+ photos without labels are left out", outcome.err)
    assert said == [str(manifest["num_left_out"])] * leaves_out


@pytest.mark.parametrize("photos", [[], HIDDEN, BOTH], ids=["unlabelled", "hidden", "both"])
@pytest.mark.parametrize("mix", [[], MIXED], ids=["as they come", "mixed"])
def test_a_student_learns_from_photos_without_labels(
    distil, run: Path, photos: list[str], mix: list[str]
) -> None:
    check_student(distil(*photos, *mix), run, leaves_out=bool(mix))


@pytest.mark.slow
@pytest.mark.parametrize("mix", [[], MIXED], ids=["as they come", "mixed"])
@pytest.mark.parametrize(
    "settings",
    [
        [PRETRAINED],
        [PRETRAINED, "student.class_weights=balanced", "views.mixup=0.4"],
        [PRETRAINED, "student.class_weights=balanced", "student.label_smoothing=0.1"],
        ["views.cutmix=1", "student.seeds=2", "student.ema_momentum=0.9"],
        ["soft_labels.top_k=1", "student.patience=1", "student.control=true"],
        ["student.batch_size=500"],
        ["student.batch_size=2"],
        ["student.soft_weight=1"],
        ["student.loss=dist"],
        ["student.loss=logit_standardized"],
        ["student.loss=jensen_shannon"],
    ],
    ids=" ".join,
)
def test_a_student_learns_whatever_else_is_set(
    distil, run: Path, settings: list[str], mix: list[str]
) -> None:
    check_student(distil(*BOTH, *settings, *mix), run, leaves_out=bool(mix))


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["shown", "all"])
def test_a_student_learns_from_a_teacher_of_the_run(
    distil, run: Path, tmp_path: Path, labels: str
) -> None:
    config = tmp_path / "config.yaml"
    trained = f"{{backbone: few_layers, image_size: 32, epochs: 1, labels: {labels}}}"
    config.write_text(re.sub("teacher: .*", f"teacher: {trained}", config.read_text()))
    # Two classes: the answer has a probability of 1/2 or more.
    outcome = distil(*BOTH, "student.labelled_share=0.5", "soft_labels.min_confidence=0.501")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("key", ["data.unlabelled", "data.labels_per_class"])
def test_a_loss_that_needs_labels_is_refused_by_name(distil, key: str) -> None:
    photos = [] if key == "data.unlabelled" else HIDDEN
    outcome = distil(*photos, "student.loss=dkd", steps="data")
    assert outcome.code == 2
    assert f"student.loss dkd needs the label of every photo, and with {key}" in outcome.err
    assert "dist, jensen_shannon, kd and logit_standardized need no labels" in outcome.err


@pytest.mark.parametrize("setting", MIXED)
def test_a_setting_without_effect_is_refused_before_anything_is_trained(
    distil, setting: str
) -> None:
    key = setting.split("=")[0]
    outcome = distil("data.unlabelled=null", setting, steps="data")
    assert outcome.code == 2
    assert f"{key} has no effect, because all photos have labels" in outcome.err
    assert "--set data.unlabelled=FOLDER" in outcome.err
    # More labels may stay than there are photos.
    outcome = distil("data.unlabelled=null", "data.labels_per_class=100", setting)
    assert outcome.code == 2
    assert f"{key} has no effect, because no photo of the run is without a label" in outcome.err
    assert "lower data.labels_per_class" in outcome.err
    assert "teacher: working" not in outcome.err


@pytest.fixture
def table(photo_folder: Path, tmp_path: Path) -> Path:
    """A table of the photos, in which half of the labels are missing."""
    rows = [f"{path},{path.parent.name if i % 2 else ''}"
            for i, path in enumerate(sorted(photo_folder.rglob("*.png")))]  # fmt: skip
    path = tmp_path / "photos.csv"
    path.write_text("\n".join(["path,label", *rows]))
    return path


def test_settings_of_photos_without_labels_work_for_rows_without_labels(
    distil, table: Path, run: Path
) -> None:
    photos = ("data.unlabelled=null", "data.source=table", f"data.path={table}")
    outcome = distil(*photos, *MIXED)
    assert outcome.code == 0, outcome.err
    outcome = distil(*photos, "student.loss=dkd", "data.validation=0.2")
    assert outcome.code == 2
    assert re.search(r"dkd needs the label of every photo, and \d+ have none", outcome.err)


@pytest.mark.parametrize("shard", ["1/2", "2/2"])
def test_more_shards_than_chunks_are_refused(distil, program, tmp_path: Path, shard: str) -> None:
    assert distil(steps="data teacher").code == 0
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    outcome = program("distill", "label", config, "--run", run, "--shard", shard)
    assert outcome.code
    assert "2 shards are too many" in outcome.err
    assert not list(run.glob("soft_labels/*.npy"))


def test_a_batch_of_one_cannot_be_mixed(distil) -> None:
    outcome = distil("student.labelled_share=0.5", "student.batch_size=1", steps="data")
    assert outcome.code == 2
    assert "student.batch_size is 1" in outcome.err


def test_a_limit_that_leaves_no_photo_is_refused_with_one_that_does(distil, run: Path) -> None:
    outcome = distil("soft_labels.min_confidence=1")
    assert outcome.code == 2
    assert f"the teacher's confidence in all {NUM_UNLABELLED} photos without labels" in outcome.err
    (advice,) = re.findall(r"--set (soft_labels.min_confidence=0[.]\d\d)", outcome.err)
    # The labels are there, and half of the photos are left with the limit that it names.
    outcome = distil(advice, steps="student")
    assert outcome.code == 0, outcome.err
    num_left_out = read_json(run / "student" / "manifest.json")["num_left_out"]
    assert 0 < num_left_out <= NUM_UNLABELLED / 2


def test_the_photos_that_are_left_out_are_those_the_teacher_is_unsure_of(
    distil, run: Path, tmp_path: Path
) -> None:
    """Grey photos are as red as they are not: the teacher has no idea."""
    for number in range(12):
        path = tmp_path / "unlabelled" / "of no class" / f"{number}.png"
        save_photo(path, seed=number)
        pixels = np.full((20 + number, 20, 3), 128, "uint8")
        Image.fromarray(pixels).save(path)
    assert distil().code == 0  # they do no harm
    outcome = distil("soft_labels.min_confidence=0.6", "soft_labels.num_views=3", steps="student")
    assert outcome.code == 0, outcome.err
    experiment = stored_experiment(run)
    with open_photo_store(RunDir(run), experiment) as photos:
        views = views_to_learn(RunDir(run), experiment, photos)
    used = {views.examples.paths[row] for row in views.training_rows}
    assert not [path for path in used if "of no class" in path.parts]
    left_out = [path for path in views.examples.paths if path not in used]
    assert len(left_out) == read_json(run / "student" / "manifest.json")["num_left_out"] >= 12
    # Labelled photos stay, however unsure the teacher is of them.
    assert all("unlabelled" in path.parts for path in left_out)


def test_another_limit_needs_no_new_labels(distil) -> None:
    limit = "soft_labels.min_confidence=0.8"
    assert distil().code == 0
    assert "soft labels: up to date" in distil(limit, steps="label").err
    outcome = distil(limit, steps="student")
    assert "student: working" in outcome.err
    assert "control: working" in outcome.err  # with as many updates, which are fewer now
    outcome = distil(limit, "student.labelled_share=0.5", steps="student")
    assert "student: working" in outcome.err
    assert "control: up to date" in outcome.err


@pytest.mark.parametrize("settings", [[], MIXED], ids=["as they come", "mixed"])
def test_the_control_makes_as_many_updates_as_the_student(
    distil, run: Path, settings: list[str]
) -> None:
    outcome = distil(*BOTH, *settings, "student.batch_size=4")
    assert outcome.code == 0, outcome.err
    student, control = (read_json(run / name / "manifest.json") for name in ("student", "control"))
    num_labelled = 2 * 6
    num_unlabelled = read_json(run / "data" / "manifest.json")["num_unlabelled"]
    per_epoch = (num_labelled + num_unlabelled - student["num_left_out"]) // 4
    # Whole epochs of 12 / 4 updates.
    assert abs(control["epochs"] * 3 - student["epochs"] * per_epoch) <= 1


@pytest.mark.parametrize("mix", [[], MIXED], ids=["as they come", "mixed"])
def test_a_student_that_is_killed_within_an_epoch_ends_like_the_undisturbed_one(
    distil, run: Path, monkeypatch: pytest.MonkeyPatch, mix: list[str]
) -> None:
    monkeypatch.setattr(epochs, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    settings = [*BOTH, *mix, PRETRAINED, "student.control=false"]
    assert distil(*settings).code == 0
    undisturbed = keras.saving.load_model(run / "student" / "model.keras").get_weights()
    shutil.rmtree(run / "student")
    whole, updates = epochs.EpochKeeper.on_train_batch_end, []

    def killed(self, batch, logs=None) -> None:
        whole(self, batch, logs)
        updates.append(batch)
        if len(updates) in (3, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(epochs.EpochKeeper, "on_train_batch_end", killed)
    for _ in range(2):
        assert distil(*settings, steps="student").code != 0
    outcome = distil(*settings, steps="student")
    assert outcome.code == 0, outcome.err
    assert "continuing after" in outcome.err
    resumed = keras.saving.load_model(run / "student" / "model.keras").get_weights()
    for resumed_array, array in zip(resumed, undisturbed, strict=True):
        # float32 sums in another order, over a dozen updates
        assert np.allclose(resumed_array, array, atol=1e-5)


@pytest.mark.slow
def test_shards_are_filtered_like_one_file(distil, program, run: Path, tmp_path: Path) -> None:
    assert distil(*BOTH, "soft_labels.min_confidence=0.7").code == 0
    expected = read_json(run / "student" / "manifest.json")["num_left_out"]
    for name in ("soft_labels", "student", "control"):
        shutil.rmtree(run / name)
    label = ["distill", "label", run]
    assert program(*label, "--shard", "1/1").code == 0
    assert program(*label, "--merge").code == 0
    assert program("distill", "student", run).code == 0
    assert read_json(run / "student" / "manifest.json")["num_left_out"] == expected


@pytest.mark.slow
def test_methods_and_report_know_what_the_student_left_out(distil, program, run: Path) -> None:
    methods = (
        "[{name: channels, keep: 0.7, multiple_of: 2, epochs: 1}, {name: magnitude, epochs: 1}]"
    )
    settings = [
        *(*BOTH, *MIXED),
        f"compress.methods={methods}",
        "compress.recipes=[tflite.float32]",
        "evaluate.num_runs=10",
        "evaluate.num_warmup=1",
    ]
    outcome = distil(*settings, steps="run")
    assert outcome.code == 0, outcome.err
    num_left_out = read_json(run / "student" / "manifest.json")["num_left_out"]
    for name in ("channels", "channels-magnitude"):
        inputs = read_json(run / "methods" / name / "manifest.json")["inputs"]
        assert inputs["min_confidence"] == 0.7
        assert inputs["student"]["labelled_share"] == 0.25
    data = read_json(run / "report.json")["data"]
    assert data["num_left_out"] == num_left_out
    sentence = (
        f"The student did not learn from {num_left_out} of {data['num_unlabelled']} photos "
        "without labels"
    )
    for name in ("report.md", "report.html", "model_card.md"):
        assert sentence in (run / name).read_text(), name
