"""What a file says of itself, read from files that the test writes itself."""

import json
import shutil
import zipfile
from pathlib import Path

import onnx
import pytest

from eval.metadata import FileMetadata, expected_pixels, read_metadata
from eval.pixels import RANGES

VALUES = {
    "classes": ["rose", "tulip", "löwenzahn", "other"],
    "output": "probabilities",
    "pixels": {"range": [0, 255], "mean": [127.5] * 3, "std": [127.5] * 3},
    "image_size": [8, 8],
    "source": "student",
    "recipe": "tflite.int8",
    "version": "0.1.0",
}


@pytest.fixture
def tflite_file(tflite_files: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(tflite_files["float32"], tmp_path / "a.tflite"))


def add_json(path: Path, content: object) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", json.dumps(content))


def test_the_zip_of_a_tflite_file_is_read(tflite_file: Path) -> None:
    assert read_metadata(tflite_file) is None
    add_json(tflite_file, {"names": {"0": "of others"}, "potstill": VALUES})
    assert read_metadata(tflite_file) == FileMetadata(**VALUES)


def test_the_properties_of_an_onnx_file_are_read(onnx_file: Path, tmp_path: Path) -> None:
    assert read_metadata(onnx_file) is None
    path = tmp_path / "a.onnx"
    model = onnx.load(onnx_file)
    onnx.helper.set_model_props(model, {"potstill": json.dumps(VALUES), "names": "{0: 'theirs'}"})
    onnx.save(model, path)
    assert read_metadata(path) == FileMetadata(**VALUES)


@pytest.mark.parametrize(
    "content", [{"author": "somebody"}, ["potstill"], {"potstill": {"classes": []}}]
)
def test_the_metadata_of_others_is_none_of_ours(tflite_file: Path, content: object) -> None:
    add_json(tflite_file, content)
    assert read_metadata(tflite_file) is None


def test_a_user_knows_the_pixels_better_than_the_file() -> None:
    metadata = FileMetadata(**VALUES)
    assert expected_pixels(metadata, None) == RANGES["-1..1"]
    assert expected_pixels(metadata, RANGES["0..1"]) == RANGES["0..1"]
    assert expected_pixels(None, None) == RANGES["0..255"]
