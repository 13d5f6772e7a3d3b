"""What files of other tools say of themselves, read from files that the test writes."""

import json
import shutil
import zipfile
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from compress.recipes.metadata import write_metadata
from configs.contract import RANGES, Statement
from eval.contract.foreign_metadata import (
    labels_beside,
    labels_of_lines,
    natural_order,
    onnx_statement,
    tflite_statement,
)
from eval.metadata import FileMetadata

METADATA = FileMetadata(
    classes=["red", "blue", "green"],
    output="probabilities",
    pixels=RANGES["torch"],
    image_size=[8, 8],
    parent="student",
    recipe="tflite.int8",
)


@pytest.fixture
def tflite_file(tflite_files: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(tflite_files["float32"], tmp_path / "a.tflite"))


def onnx_file(path: Path, **props: str) -> Path:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["answer"])], "g", [image], [answer]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, props)
    onnx.save(model, path)
    return path


def test_normalization_and_labels_of_tflite_metadata_are_read(tflite_file: Path) -> None:
    write_metadata(tflite_file, METADATA)
    statement = tflite_statement(tflite_file)
    assert statement.labels == ("red", "blue", "green")
    assert statement.pixels is not None
    assert statement.pixels.mean == pytest.approx(RANGES["torch"].mean, rel=1e-6)  # float32
    assert statement.pixels.std == pytest.approx(RANGES["torch"].std, rel=1e-6)


def test_a_file_without_metadata_says_nothing(tflite_file: Path, tmp_path: Path) -> None:
    assert tflite_statement(tflite_file) == Statement()
    assert onnx_statement(onnx_file(tmp_path / "a.onnx")) == Statement()


ULTRALYTICS = {"task": "classify", "stride": "1", "names": "{0: 'red', 1: 'blue', 2: 'green'}"}


def test_ultralytics_names_mean_pixels_from_0_to_1(tmp_path: Path, tflite_file: Path) -> None:
    expected = Statement(pixels=RANGES["0..1"], labels=("red", "blue", "green"))
    assert onnx_statement(onnx_file(tmp_path / "a.onnx", **ULTRALYTICS)) == expected
    keys = {"task": "classify", "stride": 1, "names": {"0": "red", "1": "blue", "2": "green"}}
    with zipfile.ZipFile(tflite_file, "a") as archive:
        archive.writestr("metadata.json", json.dumps(keys))
    assert tflite_statement(tflite_file) == expected


@pytest.mark.parametrize(
    "names",
    [
        "__import__('os')",
        "{0: [1]}",
        "[" * 5000,
        "{'a': 'red'}",
        "red",
        "{0: 1, 1: 2, 2: 3}",
        "{1e999: 'a'}",
        "",
    ],
)
def test_names_that_are_no_names_are_ignored(names: str, tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "a.onnx", **{**ULTRALYTICS, "names": names})
    assert onnx_statement(path).labels is None


def test_a_damaged_flatbuffer_says_nothing(tflite_file: Path) -> None:
    write_metadata(tflite_file, METADATA)
    content = tflite_file.read_bytes()
    start = content.index(b"M001") - 4
    for offset in range(start, start + 120, 4):  # every offset in the tables, one after the other
        damaged = bytearray(content)
        damaged[offset : offset + 4] = b"\xff\xff\xff\x7f"
        tflite_file.write_bytes(damaged)
        assert tflite_statement(tflite_file).labels == ("red", "blue", "green")  # from the ZIP


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("red\nblue\n", ("red", "blue")),
        ("0 red\n1 blue\n", ("red", "blue")),
        ("0: red apple\n1: blue\n", ("red apple", "blue")),
        ("2 red\n1 blue\n", ("2 red", "1 blue")),
        ("1\n10\n2", ("1", "10", "2")),
        ("\r\n\n", None),
    ],
)
def test_labels_stand_on_lines(text: str, labels: tuple[str, ...] | None) -> None:
    assert labels_of_lines(text) == labels


def test_labels_beside_a_file_are_its_own(tmp_path: Path) -> None:
    assert labels_beside(tmp_path / "model.tflite", 2) == Statement()
    (tmp_path / "labels.txt").write_text("c\nd\n")
    assert labels_beside(tmp_path / "model.tflite", 2).labels == ("c", "d")
    (tmp_path / "model.txt").write_text("b\na\n")
    assert labels_beside(tmp_path / "model.tflite", 2).labels == ("b", "a")


def test_numbers_in_names_are_sorted_by_value() -> None:
    assert natural_order(["10", "1", "2"]) == ["1", "2", "10"]
    assert natural_order(["n10", "a", "n9"]) == ["a", "n9", "n10"]


def test_labels_of_another_number_are_not_used_and_one_file_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("a\nb\nc\n")
    (tmp_path / "labels.txt").write_text("\ufeffb\na\n", "utf-8")
    assert labels_beside(tmp_path / "model.tflite", 2).labels == ("b", "a")
    assert labels_beside(tmp_path / "model.tflite", 4) == Statement()


def test_numbers_that_tell_classes_apart_stay() -> None:
    assert labels_of_lines("0 stars\n1 stars\n2 stars") == ("0 stars", "1 stars", "2 stars")
    assert labels_of_lines("9" * 5000 + " a\n") == ("9" * 5000 + " a",)
    decomposed = "cafe\u0301"
    assert labels_of_lines(decomposed) == ("caf\u00e9",)
