"""A run whose teacher harmed the student ships the control, with scores that mean something."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from compress.config_choices import REGISTRIES
from compress.run.measure import write_run_report
from compress.run.pipeline import STEPS, Context
from configs.artifacts import read_json
from configs.errors import StepFailed
from configs.loading.targets import open_run
from configs.records import to_json
from configs.resume import Step, take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.backbones import HEAD
from distill.data.pipelines import open_photo_store
from distill.model_file import describe, save_model
from distill.trained.ship import ship_step, shipped_of
from distill.trained.temperature import fold_temperature, temperature_of, temperature_step
from eval.metadata import read_metadata
from eval.scoring.predictions import load_predictions

CONFIG = """
data: {{path: {photos}, validation: 0.3, test: 0.4}}
teacher: {{backbone: efficientnet_b0, image_size: 32, epochs: 1}}
student: {{backbone: efficientnet_b0, image_size: 32, epochs: 1}}
compress: {{recipes: [tflite.float32, tflite.int8, onnx.float32], {compress}}}
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes by colour; a fifth of the photos could be either."""
    rng = np.random.default_rng(0)
    for label, channel in (("blue", 2), ("red", 0)):
        for number in range(100):
            pixels = rng.integers(90, 160, (24, 24, 3), dtype=np.uint8)
            if number % 5:
                pixels[:, :, channel] += 60
            else:
                pixels[:, :, rng.choice([0, 2])] += 60
            path = tmp_path / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def colour_model(sharpness: float) -> keras.Model:
    """Red minus blue decides, as far beyond doubt as `sharpness` says; below 0 wrongly."""
    inputs = keras.Input((32, 32, 3))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name=HEAD)(mean))
    kernel = sharpness * np.array([[-1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
    model.layers[-1].set_weights([kernel, np.zeros(2)])
    return model


def trained(run: RunDir, name: str, model: keras.Model) -> None:
    """Put a model where its training would have put it."""
    facts = {**to_json(describe(model, "colours", 32)), "seconds_to_train": 1.0, "val_top1": 0.5}
    step = Step(
        name,
        run.model_dir(name) / "manifest.json",
        {"weights": name},
        lambda workspace: (save_model(run, name, model), facts),
    )
    take_step(step)


@pytest.fixture
def opened(tmp_path: Path, photos: Path, request: pytest.FixtureRequest) -> Context:
    config = tmp_path / "colours.yaml"
    config.write_text(CONFIG.format(photos=photos, compress=getattr(request, "param", "")))
    run, experiment = open_run(
        str(config), run=tmp_path / "run", overrides=[], registries=lambda: REGISTRIES
    )
    context = Context(run, experiment, open_photo_store(run, experiment))
    take_all(context, "data")
    trained(run, "teacher", colour_model(-1.0))
    trained(run, "student", colour_model(-1.0))
    trained(run, "control", colour_model(1.0))
    for name in ("student", "control"):
        take_step(temperature_step(run, name))
    return context


def take_all(context: Context, *names: str) -> None:
    for name in names:
        for step in STEPS[name](context):
            take_step(step)


def report_of(run: RunDir, experiment: Experiment) -> dict:
    return write_run_report(run, experiment)


def test_the_control_is_shipped_and_the_report_says_why(
    opened: Context, warnings: list[str]
) -> None:
    run, experiment = opened.run, opened.experiment
    take_step(ship_step(run, experiment))
    assert shipped_of(run).model == "control"
    assert any("The teacher harmed the student" in message for message in warnings)
    take_all(opened, "export", "quantize", "accuracy")
    report = report_of(run, experiment)
    assert [row["source"] for row in report["files"]] == ["control"] * 3
    assert report["verdict"]["chosen_file"].startswith("control-")
    assert report["shipped"]["model"] == "control"
    for name in ("report.html", "report.md", "model_card.md"):
        text = (run.path / name).read_text()
        assert "made from the control" in text, name
        assert "the teacher harmed the student" in text, name


def test_scores_of_files_are_calibrated_and_answers_stay(opened: Context) -> None:
    run, experiment = opened.run, opened.experiment
    take_step(ship_step(run, experiment))
    take_all(opened, "export", "quantize", "accuracy")
    temperature = temperature_of(run, experiment, "control")
    assert temperature > 4  # logits of 60, and a tenth of the answers is wrong
    report = report_of(run, experiment)
    assert report["calibration"]["temperature"] == temperature
    assert report["calibration"]["ece_after"] < report["calibration"]["ece_before"]
    # The Keras model of the report is the one that is in the files.
    for row in report["files"]:
        if row["recipe"].endswith("float32"):
            assert row["parity"]["max_abs_diff"] < 1e-4
        else:
            assert row["accuracy"]["agreement_with_source"] > 0.95
    by_hand = np.load(run.model_dir("control") / "validation_logits.npy") / temperature
    powers = np.exp(by_hand - by_hand.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        load_predictions(run, "control-float32.tflite")["validation"],
        powers / powers.sum(axis=1, keepdims=True),
        atol=1e-4,
    )


def test_files_carry_the_threshold_of_their_own_scores(opened: Context, program, tmp_path) -> None:
    run, experiment = opened.run, opened.experiment
    lenient = experiment.compress.model_copy(update={"accepted_accuracy": 0.8})
    experiment = experiment.model_copy(update={"compress": lenient})
    take_step(ship_step(run, experiment))
    take_all(Context(run, experiment, opened.photos), "export", "quantize", "accuracy")
    rows = {row["name"]: row for row in report_of(run, experiment)["files"]}
    for name, row in rows.items():
        metadata = read_metadata(run.file(name))
        assert metadata is not None
        assert metadata.threshold is not None
        assert row["threshold"]["threshold"] == to_json(metadata.threshold)
        scores = load_predictions(run, name)["validation"].max(axis=1)
        assert (scores >= metadata.threshold.score).mean() == metadata.threshold.coverage
    grey = tmp_path / "grey.png"
    Image.new("RGB", (32, 32), (128, 128, 128)).save(grey)
    red = tmp_path / "red.png"
    Image.new("RGB", (32, 32), (255, 0, 0)).save(red)
    file = run.file("control-float32.tflite")
    outcome = program("evaluate", "predict", file, grey, red, "--json")
    of_grey, of_red = json.loads(outcome.out)["predictions"]
    assert of_grey["accepted"] is False
    assert of_red["accepted"] is True
    lines = program("evaluate", "predict", file, grey, red).out.splitlines()
    assert "none of these?" in lines[0]
    assert "none of these?" not in lines[1]


@pytest.mark.parametrize("opened", ["calibrate: false, accepted_accuracy: null"], indirect=True)
def test_without_calibration_files_answer_as_the_model_was_trained(opened: Context) -> None:
    run, experiment = opened.run, opened.experiment
    take_step(ship_step(run, experiment))
    take_all(opened, "export", "quantize", "accuracy")
    report = report_of(run, experiment)
    assert report["calibration"] is None
    assert all(row["threshold"] is None for row in report["files"])
    logits = np.load(run.model_dir("control") / "validation_logits.npy")
    probs = load_predictions(run, "control-float32.tflite")["validation"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probs, powers / powers.sum(axis=1, keepdims=True), atol=1e-4)
    manifest = read_json(run.file("control-float32.tflite.json"))
    assert "threshold" not in manifest


def test_a_model_that_does_not_end_in_our_classifier_takes_no_temperature() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name=HEAD)(inputs))
    with pytest.raises(StepFailed, match=r"compress\.calibrate=false"):
        fold_temperature(model, 2.0)
