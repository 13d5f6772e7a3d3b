"""The last mile alone: bare models and files, without a run."""

import json
import re
import shutil
from pathlib import Path

import keras
import pytest
from PIL import Image

from compress import budget, standalone
from compress.recipes import RECIPES
from configs.contract import RANGES
from eval.devices import session
from eval.devices.probe import open_model
from eval.metadata import read_metadata


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A classifier that Potstill did not make: pixels 0..1 in, probabilities out."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((24, 20, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.save(tmp_path / "mine.keras")
    return tmp_path / "mine.keras"


def last_json(outcome) -> dict:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out.splitlines()[-1])


def test_a_foreign_model_becomes_measured_files(
    program, foreign: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "NUM_RUNS", 20)
    result = last_json(
        program(
            "compress", "quantize", foreign, "--data", photo_folder, "--pixels", "0..1",
            "--recipe", "float32", "--recipe", "int8", "--recipe", "onnx.float32",
            "--max-drop", "0.5", "--out", foreign.parent / "out", "--json",
        )
    )  # fmt: skip
    rows = {row["name"]: row for row in result["files"]}
    assert set(rows) == {"mine-float32.tflite", "mine-int8.tflite", "mine-float32.onnx"}
    for name in ("mine-float32.tflite", "mine-float32.onnx"):
        assert rows[name]["parity"]["max_abs_diff"] < 1e-4  # float32 sums in another order
        assert rows[name]["accuracy"]["agreement_with_source"] == 1.0
    assert all(row["latency"][0]["p50_ms"] > 0 for row in rows.values())
    needs = {name: row["runtime"] for name, row in rows.items()}
    assert needs["mine-float32.onnx"] == {"opset": 17, "ir": 8}
    assert needs["mine-int8.tflite"] == {"tflite": "1.14"}
    assert rows["mine-int8.tflite"]["latency"][0]["delegate"]["others"] == {"SOFTMAX": 1}
    assert result["verdict"]["chosen_file"] in rows
    metadata = read_metadata(foreign.parent / "out" / "mine-int8.tflite")
    assert metadata is not None
    assert metadata.classes == ["cat", "dog"]
    assert metadata.pixels == RANGES["0..255"]  # the range of the model is inside the file
    assert metadata.contract is not None
    assert metadata.contract["pixels"] == RANGES["0..1"].describe()

    # The file takes raw pixels: the same scores without --pixels.
    file = foreign.parent / "out" / "mine-float32.tflite"
    again = last_json(program("evaluate", "accuracy", file, "--data", photo_folder, "--json"))
    expected = rows["mine-float32.tflite"]["accuracy"]
    for score in ("top1", "nll", "n"):
        assert again["files"][0]["accuracy"][score] == pytest.approx(expected[score])


def test_photos_that_the_model_may_have_learned_are_named(
    program, foreign: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "NUM_RUNS", 10)
    command = ["compress", "quantize", foreign, "--recipe", "float32", "--data"]
    outcome = program(*command, photo_folder)
    assert "mine.keras is scored on photos that are drawn from" in outcome.err
    assert outcome.code == 0

    for part in ("train", "test"):
        shutil.copytree(photo_folder, tmp_path / "own" / part)
    for number, photo in enumerate(sorted((tmp_path / "own").rglob("*.*"))):
        with Image.open(photo) as image:  # the same photo in both would be left out
            image.convert("RGB").rotate(7 * number).save(photo)
    outcome = program(*command, tmp_path / "own")
    assert outcome.code == 0, outcome.err
    assert "are drawn from" not in outcome.err


def test_files_that_cannot_be_timed_are_kept(
    program, foreign: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOADING_SECONDS", 0.001)
    outcome = program(
        "compress", "quantize", foreign, "--recipe", "float32", "--data", photo_folder
    )
    assert outcome.code == 1
    assert f"The files are written to {foreign.parent}, but not measured." in outcome.err
    assert (foreign.parent / "mine-float32.tflite").exists()


def test_a_limit_without_recipes_searches(program, foreign: Path, photo_folder: Path) -> None:
    outcome = program(
        "compress", "quantize", foreign, "--data", photo_folder, "--pixels", "0..1",
        "--max-drop", "0.5", "--max-bytes", "1000000", "--quiet",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    table, _, chosen = outcome.out.partition("on the test photos:")
    (line,) = [line for line in table.splitlines() if line.endswith("chosen")]
    name = line.split()[0]
    # Of files as fast the smallest: tiny ones are that by chance.
    assert re.search(rf"\* {name}: the (fast|small)est .*of 3 files within 50\.0 points", chosen)
    assert "and 1,000,000 bytes" in chosen
    reason = "not made: plain-int8 is accurate and small enough, and this one is no faster"
    assert table.count(reason) == 4


def test_a_search_that_finds_none_says_so(
    program, foreign: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "LADDER", budget.LADDER[:1])
    outcome = program(
        "compress", "quantize", foreign, "--data", photo_folder, "--max-bytes", "1", "--quiet"
    )
    assert outcome.code == 1, outcome.err
    assert "bytes, 1 allowed" in outcome.out
    assert "on the test photos" not in outcome.out
    last = outcome.out.splitlines()[-1]
    assert last == (
        "no file was chosen: no candidate holds the limits. Raise a limit, or leave one out."
    )


def test_of_recipes_that_all_miss_a_limit_none_is_chosen(
    program, foreign: Path, photo_folder: Path
) -> None:
    outcome = program(
        "compress", "quantize", foreign, "--data", photo_folder, "--recipe", "dynamic",
        "--max-bytes", "1", "--quiet",
    )  # fmt: skip
    assert outcome.code == 1, outcome.err
    assert " *" not in outcome.out
    assert "no file was chosen: no file stays within" in outcome.out


def test_a_recipe_that_fails_does_not_cost_the_others(
    program, foreign: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*words: object, **options: object) -> None:
        raise RuntimeError("the converter gave up\nwith a long text")

    monkeypatch.setitem(RECIPES._functions, "tflite.dynamic", broken)
    words = ["--recipe", "float32", "--recipe", "dynamic", "--recipe", "float16"]
    outcome = program("compress", "quantize", foreign, "--data", photo_folder, *words, "--json")
    assert outcome.code == 1
    value = json.loads(outcome.out.splitlines()[-1])
    assert [row["name"] for row in value["files"]] == ["mine-float32.tflite", "mine-float16.tflite"]
    assert value["failures"] == {"mine-dynamic.tflite": "RuntimeError: the converter gave up"}
    assert "mine-dynamic.tflite failed: RuntimeError: the converter gave up" in outcome.err


def test_a_recipe_that_an_older_runtime_does_not_open_is_refused(
    program, foreign: Path, photo_folder: Path
) -> None:
    words = ["--recipe", "float16", "--least-runtime", "tflite=1.14"]
    outcome = program("compress", "quantize", foreign, "--data", photo_folder, *words)
    assert outcome.code == 2
    assert "mine-float16.tflite needs TFLite 1.15, and least_runtime asks for 1.14" in outcome.err
    assert not foreign.with_name("mine-float16.tflite").exists()


def test_files_that_are_up_to_date_are_not_made_again(
    program, foreign: Path, photo_folder: Path
) -> None:
    words = ["compress", "quantize", foreign, "--data", photo_folder, "--recipe", "float16"]
    assert program(*words).code == 0
    file = foreign.with_name("mine-float16.tflite")
    before = file.stat().st_mtime_ns
    outcome = program(*words)
    assert "mine-float16.tflite: up to date" in outcome.err
    assert file.stat().st_mtime_ns == before
    assert program(*words, "--pixels", "0..1").code == 0
    assert file.stat().st_mtime_ns > before


def test_a_renamed_class_makes_the_file_stale(program, foreign: Path, photo_folder: Path) -> None:
    words = ["compress", "quantize", foreign, "--data", photo_folder, "--recipe", "float16"]
    assert program(*words).code == 0
    (photo_folder / "cat").rename(photo_folder / "bird")
    assert program(*words).code == 0
    metadata = read_metadata(foreign.with_name("mine-float16.tflite"))
    assert metadata is not None
    assert metadata.classes == ["bird", "dog"]


def test_a_recipe_without_enough_memory_costs_no_finished_file(
    program, foreign: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*words: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setitem(RECIPES._functions, "tflite.dynamic", hungry)
    words = ["--recipe", "float16", "--recipe", "dynamic"]
    outcome = program("compress", "quantize", foreign, "--data", photo_folder, *words)
    assert outcome.code == 1
    assert "out of memory. Finished steps are kept." in outcome.err
    assert foreign.with_name("mine-float16.tflite").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compress", "quantize", "smoke", "--recipe", "int8"], "--recipe has no effect on smoke"),
        (["compress", "quantize", "smoke", "--max-bytes", "9"], "--max-bytes has no effect on"),
        (["compress", "quantize", "m.keras", "--max-drop", "2"], "--max-drop is 2.0: Input should"),
        (["compress", "quantize", "m.keras", "--qat-epochs", "2"], "--qat-epochs has no effect on"),
        (["compress", "quantize", "smoke", "--qat-epochs", "2"], "--qat-epochs has no effect on"),
        (
            ["compress", "quantize", "smoke", "--least-runtime", "tflite=2.14"],
            "--least-runtime has",
        ),
        (["compress", "quantize", "m.keras", "--least-runtime", "2.14"], "expected the name and"),
        (["compress", "quantize", "m.keras", "--least-runtime", "tflite="], "expected the name"),
        (["compress", "quantize", "m.keras", "--least-runtime", "ort=1"], "expected the name and"),
        (["compress", "quantize", "smoke", "--import", "a.py"], "--import has no effect on smoke"),
        (["compress", "quantize", "smoke", "--allow-lambda"], "--allow-lambda has no effect on"),
        (["compress", "quantize", "M.HDF5", "--run", "r"], "--run has no effect on M.HDF5"),
        (["compress", "quantize", "m.keras", "--run", "r"], "--run has no effect on m.keras"),
        (["evaluate", "latency", "smoke", "--num-runs", "3"], "--num-runs has no effect on smoke"),
        (["evaluate", "accuracy", "a.onnx", "smoke"], "or only .tflite and .onnx files"),
        (["evaluate", "accuracy", "a.onnx"], "a.onnx does not exist"),
    ],
)
def test_an_option_without_effect_is_refused(program, words: list, says: str) -> None:
    outcome = program(*words)
    assert outcome.code == 2
    assert says in outcome.err


def test_a_folder_of_other_classes_is_refused(program, foreign: Path, photo_folder: Path) -> None:
    (photo_folder / "cat").rename(photo_folder / "bird")
    outcome = program(
        "compress", "quantize", foreign, "--data", photo_folder, "--recipe", "float32", "--json"
    )
    file = foreign.parent / "mine-float32.tflite"
    assert outcome.code == 0, outcome.err
    (photo_folder / "bird").rename(photo_folder / "fish")
    outcome = program("evaluate", "accuracy", file, "--data", photo_folder)
    assert outcome.code == 2
    assert "are bird, dog. The photos have classes that are not among them: fish" in outcome.err
    (photo_folder / "fish").rename(photo_folder / "bird")
    outcome = program("evaluate", "accuracy", file, "--data", photo_folder, "--layout", "nchw")
    assert outcome.code == 2
    assert "--layout nchw does not fit" in outcome.err
    assert "Leave --layout out" in outcome.err


def test_photos_without_labels_give_the_same_file_and_agreement(
    program, foreign: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "NUM_RUNS", 20)
    flat = tmp_path / "flat"
    flat.mkdir()
    for photo in photo_folder.rglob("*.png"):
        shutil.copy(photo, flat / f"{photo.parent.name}-{photo.name}")
    words = ["compress", "quantize", foreign, "--pixels", "0..1", "--recipe", "int8", "--json"]
    labels = foreign.with_name("labels.txt")
    labels.write_text("cat\ndog\n")
    program(*words, "--data", photo_folder, "--labels", labels, "--out", tmp_path / "a")
    outcome = program(*words, "--data", flat, "--labels", labels, "--out", tmp_path / "b")
    assert outcome.code == 0, outcome.err
    files = [tmp_path / name / "mine-int8.tflite" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    (row,) = last_json(outcome)["files"]
    assert row["accuracy"] is None
    assert row["agreement"]["n"] > 0
    assert 0 <= row["agreement"]["agreement_with_source"] <= 1
    assert row["agreement"]["expected_low"] <= row["agreement"]["expected_drop"] + 1e-9

    text = program(*words[:-1], "--data", flat, "--out", tmp_path / "b", "--max-drop", "1.0").out
    assert "The photos have no labels." in text
    assert "is expected to lose" in text


def test_recipes_without_calibration_need_no_photos(
    program, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "NUM_RUNS", 20)
    words = ["compress", "quantize", foreign, "--pixels", "0..1"]
    outcome = program(*words, "--recipe", "float32", "--recipe", "dynamic", "--json")
    assert outcome.code == 0, outcome.err
    rows = last_json(outcome)["files"]
    assert [row["accuracy"] for row in rows] == [None, None]
    assert all(row["latency"][0]["p50_ms"] > 0 for row in rows)
    outcome = program(*words, "--recipe", "int8")
    assert outcome.code == 2
    assert "Give a folder of photos with --data" in outcome.err
    outcome = program(*words, "--max-drop", "0.01")
    assert outcome.code == 2
    assert "Add --data with a folder of photos" in outcome.err


def test_the_edges_of_an_int8_file_may_be_bytes(
    program, foreign: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "NUM_RUNS", 20)
    outcome = program(
        "compress", "quantize", foreign, "--data", photo_folder, "--pixels", "0..1",
        "--input-type", "uint8", "--output-type", "uint8", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert open_model(foreign.with_name("mine-int8.tflite")).input.dtype == "uint8"
