"""The search for a file within a budget, on a model that int8 harms and equalisation helps."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from compress import budget
from compress.budget import (
    LADDER,
    CandidateResult,
    _fastest,
    _needless,
)
from compress.recipes import RECIPES
from compress.standalone import Quantized, quantize_model
from configs.schema.files import BudgetConfig
from eval.images import evaluation_image
from eval.metadata import read_metadata
from small_models import settle
from support import save_photo

NUM_PHOTOS = {"train": 32, "validation": 60, "test": 60}


def uneven_model(photos: np.ndarray) -> keras.Model:
    """A swish whose channels differ 300-fold in range, and count the same for the answer."""
    keras.utils.set_random_seed(5)
    pixels = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, use_bias=False)(layers.Rescaling(1 / 255)(pixels))
    x = layers.BatchNormalization(name="uneven")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False)(layers.Activation("silu", name="swish")(x))
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    logits = layers.Dense(2, name="logits")(layers.BatchNormalization(name="even")(x))
    model = settle(keras.Model(pixels, logits), photos)
    factors = np.geomspace(1, 300, 16).astype("float32")
    norm = model.get_layer("uneven")
    norm.gamma.assign(norm.gamma * factors)
    norm.beta.assign(norm.beta * factors)
    return settle(model, photos)


def lopsided_model(photos: np.ndarray) -> keras.Model:
    """A feature of 10,000 on every photo: one range for all features leaves the others nothing."""
    keras.utils.set_random_seed(5)
    pixels = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(64, 3, strides=2, name="features")(layers.Rescaling(1 / 255)(pixels))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    # 4,096 weights: dynamic files round a kernel from 1,024 on.
    x = layers.Dense(64, use_bias=False, name="mixing")(x)
    logits = layers.Dense(2, name="logits")(layers.BatchNormalization()(x))
    model = keras.Model(pixels, logits)
    features, mixing = model.get_layer("features"), model.get_layer("mixing")
    is_large = np.arange(64) == 0
    features.kernel.assign(np.where(is_large, 0, features.kernel))
    features.bias.assign(np.where(is_large, 1e4, features.bias))
    mixing.kernel.assign(np.where(is_large[:, None], 1e-4, mixing.kernel))
    return settle(model, photos)


def search_files(folder: Path, build: Callable[[np.ndarray], keras.Model]) -> Quantized:
    """Search on photos that are called what the model calls them."""
    total = sum(NUM_PHOTOS.values())
    paths = [save_photo(folder / "all" / f"{i}.png", seed=i, size=(16, 16)) for i in range(total)]
    images = np.stack([evaluation_image(path, (16, 16)) for path in paths]).astype("float32")
    model = build(images)
    model.save(folder / "mine.keras")
    answers = model.predict_on_batch(images).argmax(axis=1)
    splits = [split for split, num in NUM_PHOTOS.items() for _ in range(num)]
    for path, answer, split in zip(paths, answers, splits, strict=True):
        target = folder / "photos" / split / f"class{answer}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return quantize_model(
        folder / "mine.keras",
        data=folder / "photos",
        recipes=[],
        out=folder / "out",
        budget=BudgetConfig(max_drop=0.005),
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The rows and the verdict of a search."""
    made = search_files(tmp_path_factory.mktemp("budget"), uneven_model)
    assert made.verdict is not None
    return made.rows, made.verdict


def test_a_dynamic_file_that_collapses_is_not_chosen(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(budget, "LADDER", LADDER[:2])
    monkeypatch.setattr(budget, "NUM_RUNS", 10)
    verdict = search_files(tmp_path, lopsided_model).verdict
    assert verdict is not None
    _, dynamic = verdict["candidates"]
    assert dynamic["name"] == "mine-dynamic.tflite"
    assert dynamic["validation"]["agreement"] < 0.8  # one class for every photo
    assert "allowed" in dynamic["turned_down"]
    assert verdict["chosen_file"] == "mine-float32.tflite"


def test_it_climbs_from_plain_int8_to_int8_and_no_further(searched) -> None:
    _, verdict = searched
    results = {candidate["name"]: candidate for candidate in verdict["candidates"]}
    assert list(results) == [
        "mine-float32.tflite", "mine-dynamic.tflite", "mine-plain-int8.tflite",
        "mine-int8.tflite", "mixed-int8", "weights", "int16",
    ]  # fmt: skip
    assert re.fullmatch(
        r"on the validation photos it is expected to lose \d+\.\d\d points \(.*\), 0\.50 allowed",
        results["mine-plain-int8.tflite"]["turned_down"],
    )
    held = results["mine-int8.tflite"]
    assert held["validation"]["expected_drop"] <= 0.005
    assert held["p50_ms"] > 0
    for name in ("mixed-int8", "weights", "int16"):
        assert results[name]["turned_down"].startswith("not made: int8 is accurate")


def test_one_that_is_slower_than_none_is_chosen_and_the_timed_ones_are_scored(searched) -> None:
    rows, verdict = searched
    timed = [c["name"] for c in verdict["candidates"] if c["p50_ms"]]
    (name,) = [c["name"] for c in verdict["candidates"] if c["turned_down"] is None]
    assert name == verdict["chosen_file"]
    (chosen,) = [row for row in rows if row["name"] == name]
    assert chosen["latency"][0]["against_fastest"]["verdict"] != "slower"
    assert [row["name"] for row in rows] == timed
    assert re.search(
        r"of the float model .*it is expected to lose 0\.\d+ points \(counted: 0\.00 lost\)",
        verdict["reason"],
    )
    assert all(row["accuracy"]["n"] == NUM_PHOTOS["test"] for row in rows)
    assert all(row["accuracy"]["agreement_with_source"] > 0.95 for row in rows)


def test_a_file_says_what_it_was_made_of(searched) -> None:
    rows, _ = searched
    row = next(row for row in rows if row["name"] == "mine-int8.tflite")
    path = Path(row["path"])
    manifest = json.loads(path.with_name(path.name + ".json").read_text())
    metadata = read_metadata(path)
    assert metadata is not None
    assert {row["source"], manifest["source"], metadata.parent} == {"mine"}
    assert manifest["equalized"] == ["swish"]
    model = path.parent.parent / "mine.keras"
    assert manifest["inputs"]["model"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert set(manifest["inputs"]) == {"model", "photos", "contract", "recipe", "source", "weights"}


def test_a_file_says_what_rounding_its_layers_is_predicted_to_cost(searched) -> None:
    rows, _ = searched
    path = Path(next(row["path"] for row in rows if "int8" in row["name"]))
    manifest = json.loads(path.with_name(path.name + ".json").read_text())
    nats = [layer["nats"] for layer in manifest["rounding"]]
    assert nats == sorted(nats, reverse=True)
    assert "swish_product" in [layer["layer"] for layer in manifest["rounding"]]


def test_what_need_not_be_made() -> None:
    results = [CandidateResult(candidate) for candidate in LADDER]
    assert [_needless(result, results) for result in results] == [None] * len(results)
    by_name = {result.candidate.name: result for result in results}
    by_name["dynamic"].file = Path("mine-dynamic.tflite")
    assert _needless(by_name["int16"], results) is None  # int8 may be faster yet
    by_name["int8"].file = Path("mine-int8.tflite")
    assert "int8 is accurate" in _needless(by_name["int16"], results)
    by_name["int8"].turned_down = "loses"
    assert _needless(by_name["int16"], results) is None


def test_where_no_candidate_holds_none_is_chosen(tmp_path) -> None:
    results = [
        CandidateResult(LADDER[0], file=tmp_path / "mine.tflite", turned_down="loses"),
        CandidateResult(LADDER[1]),
    ]
    latency, verdict = _fastest(results, BudgetConfig())
    assert latency == {}
    assert verdict.chosen_file is None
    assert verdict.reason == "no candidate holds the limits"


@pytest.fixture
def hard_swish(tmp_path: Path) -> dict:
    """Arguments of `quantize_model` for a model that int16 has no counterpart for."""
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(2, 3, strides=2, activation="hard_silu")(pixels)
    keras.Model(pixels, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))).save(
        tmp_path / "mine.keras"
    )
    for split in NUM_PHOTOS:
        for i in range(4):
            path = tmp_path / "photos" / split / f"class{i % 2}" / f"{i}.png"
            save_photo(path, seed=10 * len(split) + i, size=(16, 16))
    return {"path": tmp_path / "mine.keras", "data": tmp_path / "photos", "out": tmp_path / "out"}


def test_a_candidate_that_cannot_be_made_ends_no_search(hard_swish, monkeypatch) -> None:
    by_name = {candidate.name: candidate for candidate in LADDER}
    rungs = [by_name[name] for name in ("float32", "int8", "int16")]
    monkeypatch.setattr(budget, "LADDER", rungs)
    monkeypatch.setattr(budget, "NUM_RUNS", 10)
    verdict = quantize_model(**hard_swish, recipes=[], budget=BudgetConfig()).verdict
    assert verdict is not None
    assert verdict["chosen_file"] == "mine-float32.tflite"
    _, even, int16 = verdict["candidates"]
    assert even["turned_down"] == "not made: equalizing the model saves nothing"
    assert int16["turned_down"].startswith("cannot be made: the TFLite converter refused")
    assert "HARD_SWISH" in int16["turned_down"]


def test_where_all_that_hold_else_are_too_slow_none_is_chosen(hard_swish, monkeypatch) -> None:
    monkeypatch.setattr(budget, "LADDER", [LADDER[0]])
    monkeypatch.setattr(budget, "NUM_RUNS", 10)
    limits = BudgetConfig(max_latency_ms=1e-6)
    made = quantize_model(**hard_swish, recipes=[], budget=limits)
    rows, verdict = made.rows, made.verdict
    assert verdict is not None
    assert not made.holds_limits
    assert verdict["chosen_file"] is None
    assert verdict["reason"] == "no candidate holds the limits"
    (candidate,) = verdict["candidates"]
    assert re.fullmatch(r"it takes [\d.e-]+ ms, 1e-06 allowed", candidate["turned_down"])
    assert verdict["turned_down"] == {"mine-float32.tflite": candidate["turned_down"]}
    assert rows[0]["latency"][0]["p50_ms"] == candidate["p50_ms"] > 0


def test_every_candidate_has_a_recipe_with_these_options() -> None:
    assert {candidate.choice.name for candidate in LADDER} <= set(RECIPES.names())
