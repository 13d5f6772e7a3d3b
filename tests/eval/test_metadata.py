import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from eval.metadata import FileMetadata, read_metadata, write_metadata
from eval.probe import open_model

METADATA = FileMetadata(
    classes=["rose", "tulip", "löwenzahn", "other"],
    output="probabilities",
    pixels={"range": [0, 255], "mean": [0, 0, 0], "std": [1, 1, 1]},
    image_size=[8, 8],
    source="student",
    recipe="tflite.int8",
)


@pytest.fixture(params=["onnx", "tflite"])
def model_file(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    onnx_file: Path,
) -> Path:
    source = onnx_file
    if request.param == "tflite":
        source = request.getfixturevalue("tflite_files")["int8"]
    return Path(shutil.copy(source, tmp_path / source.name))


def test_what_is_written_is_read_and_the_answers_stay(
    model_file: Path, colours: np.ndarray
) -> None:
    before = open_model(model_file).predict(colours.astype("float32"))
    assert read_metadata(model_file) is None
    write_metadata(model_file, METADATA)
    assert read_metadata(model_file) == METADATA
    np.testing.assert_array_equal(open_model(model_file).predict(colours.astype("float32")), before)


def test_other_tools_find_the_labels_of_a_tflite_file(
    tflite_files: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copy(tflite_files["float32"], tmp_path / "a.tflite"))
    write_metadata(path, METADATA)
    with zipfile.ZipFile(path) as archive:
        labels = archive.getinfo("labels.txt")
        assert labels.compress_type == zipfile.ZIP_STORED  # MediaPipe reads no other
        assert archive.read("labels.txt").decode() == "rose\ntulip\nlöwenzahn\nother\n"
        assert json.loads(archive.read("metadata.json"))["recipe"] == "tflite.int8"
    # Offsets count from the start of the file, so that readers need no repair.
    assert path.read_bytes()[labels.header_offset :].startswith(b"PK\3\4")


def test_other_tools_find_the_names_of_an_onnx_file(onnx_file: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(onnx_file, tmp_path / "a.onnx"))
    write_metadata(path, METADATA)
    props = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert json.loads(props["names"])["2"] == "löwenzahn"


def test_the_same_file_twice_has_the_same_bytes(
    tflite_files: dict[str, Path], tmp_path: Path
) -> None:
    paths = [Path(shutil.copy(tflite_files["float32"], tmp_path / f"{i}.tflite")) for i in range(2)]
    for path in paths:
        write_metadata(path, METADATA)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_metadata_of_others_is_none_of_ours(
    tflite_files: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copy(tflite_files["float32"], tmp_path / "a.tflite"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", '{"author": "somebody"}')
    assert read_metadata(path) is None
