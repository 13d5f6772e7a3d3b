"""Quantization-aware training of a model that comes without a run."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compress import budget
from compress.foreign.load import load_foreign
from compress.self_taught import ending_in_logits, self_taught_qat
from compress.standalone import quantize_model
from configs.artifacts import read_json
from configs.contract import OWN_CONTRACT, InputContract
from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema.files import BudgetConfig
from small_models import logits_of, random_images, settle
from support import save_photo

SIZE = 32


def classifier(*last: layers.Layer, size: int = SIZE) -> keras.Model:
    keras.utils.set_random_seed(3)
    pixels = keras.Input((size, size, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2)(layers.Rescaling(1 / 255)(pixels))
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    for layer in last:
        x = layer(x)
    return settle(keras.Model(pixels, x, name="mine"), random_images(8, size))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(120):
        save_photo(folder / f"class{seed % 2}" / f"{seed}.png", seed=seed, size=(SIZE, SIZE))
    return folder


@pytest.mark.parametrize(
    "last",
    [
        [layers.Dense(2, activation="softmax", name="head")],
        [layers.Dense(2, name="head"), layers.Softmax()],
        [layers.Dense(2, name="head"), layers.Activation("softmax"), layers.Dropout(0.1)],
    ],
)
def test_a_softmax_at_the_end_goes(last) -> None:
    model, images = classifier(*last), random_images(4, SIZE)
    logits = logits_of(ending_in_logits(model), images)
    assert not np.allclose(logits.sum(axis=1), 1, atol=0.01)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probs, logits_of(model, images), atol=1e-6)


def test_so_does_one_of_keras_ops() -> None:
    pixels = keras.Input((SIZE, SIZE, 3))
    x = layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(pixels))
    model, images = keras.Model(pixels, keras.ops.softmax(x)), random_images(4, SIZE)
    logits = logits_of(keras.Model(pixels, x), images)
    np.testing.assert_array_equal(logits_of(ending_in_logits(model), images), logits)


def test_logits_stay_as_they_are() -> None:
    model = classifier(layers.Dense(2))
    assert ending_in_logits(model) is model


def test_a_search_trains_where_it_may_and_says_what_of(photos, tmp_path, monkeypatch) -> None:
    rungs = [rung for rung in budget.LADDER if rung.name in ("float32", "qat-int8")]
    monkeypatch.setattr(budget, "LADDER", rungs)
    file = tmp_path / "mine.keras"
    classifier(layers.Dense(2, activation="softmax", name="head")).save(file)
    given = {"data": photos, "recipes": [], "out": tmp_path / "out"}

    made = quantize_model(file, **given, budget=BudgetConfig(max_drop=1.0))
    assert made.verdict is not None
    assert [candidate["name"] for candidate in made.verdict["candidates"]] == [
        "mine-float32.tflite"
    ]

    made = quantize_model(file, **given, budget=BudgetConfig(max_drop=1.0), qat_epochs=1)
    rows, verdict = made.rows, made.verdict
    assert verdict is not None
    assert [candidate["name"] for candidate in verdict["candidates"]] == [
        "mine-float32.tflite", "mine-qat-int8.tflite",
    ]  # fmt: skip
    # It is another model: what it loses is counted, be it a gain.
    validation = verdict["candidates"][1]["validation"]
    assert validation["loss"] == validation["drop"] != validation["expected_drop"]
    (row,) = [row for row in rows if row["name"] == "mine-qat-int8.tflite"]
    assert row["source"] == "mine-qat"
    assert row["accuracy"]["agreement_with_source"] > 0.5
    run = RunDir(tmp_path / "out" / "mine-qat")
    manifest = read_json(run.model_dir("qat") / "manifest.json")
    assert manifest["inputs"]["method"]["epochs"] == 1

    def trained_at() -> int:
        quantize_model(file, **given, budget=BudgetConfig(max_drop=1.0), qat_epochs=1)
        return run.model("qat").stat().st_mtime_ns

    before = run.model("qat").stat().st_mtime_ns
    assert trained_at() == before
    # Another network of the same weights.
    config = json.loads(classifier(layers.Dense(2, activation="softmax", name="head")).to_json())
    (rescaling,) = [x for x in config["config"]["layers"] if x["class_name"] == "Rescaling"]
    rescaling["config"]["scale"] = 1 / 127
    other = keras.models.model_from_json(json.dumps(config))
    other.set_weights(keras.saving.load_model(file).get_weights())
    other.save(file)
    assert trained_at() > before


@pytest.mark.parametrize(
    ("model", "contract", "says"),
    [
        (classifier(layers.Dense(2)), InputContract(fit="stretch"), "training crops photos"),
        (classifier(layers.Dense(2), size=16), OWN_CONTRACT, "this model takes 16 x 16"),
        (classifier(layers.Dense(1, activation="sigmoid")), OWN_CONTRACT, "ends in 1 of sigmoid"),
        (classifier(layers.Dense(2, activation="sigmoid")), OWN_CONTRACT, "ends in 2 of sigmoid"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, contract, says, photos, tmp_path) -> None:
    model.save(tmp_path / "mine.keras")
    with pytest.raises(UserError, match=says):
        self_taught_qat(
            model,
            teacher=tmp_path / "mine.keras",
            data=photos,
            epochs=1,
            folder=tmp_path / "run",
            contract=contract,
        )
    assert not (tmp_path / "run").exists()


def test_a_graph_in_one_layer_is_not_trained(photos: Path, tmp_path: Path) -> None:
    image = tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32)
    graph = tf.function(lambda x: tf.reduce_mean(tf.cumsum(x, 1), [1, 2])[:, :2], [image])
    tf.saved_model.save(tf.Module(), str(tmp_path / "graph"), {"serving_default": graph})
    with pytest.raises(UserError, match=r"graph that Potstill runs as one layer.*\.keras file"):
        self_taught_qat(
            load_foreign(tmp_path / "graph"),
            teacher=tmp_path / "graph",
            data=photos,
            epochs=1,
            folder=tmp_path / "run",
            contract=OWN_CONTRACT,
        )
    assert not (tmp_path / "run").exists()
