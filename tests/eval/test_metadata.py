"""The metadata in a model file, read from files that the test writes itself."""

import json
import shutil
import struct
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from configs.contract import RANGES
from eval.metadata import MAX_JSON_BYTES, FileMetadata, SplitShares, read_metadata

VALUES: dict[str, Any] = {
    "classes": ["rose", "tulip", "löwenzahn", "other"],
    "output": "probabilities",
    "pixels": {"range": [0, 255], "mean": [127.5] * 3, "std": [127.5] * 3},
    "image_size": [8, 8],
    "source": "student",
    "recipe": "tflite.int8",
    "split": {"validation": 0.1, "test": 0.2},
    "version": "0.1.0",
}
METADATA = FileMetadata(
    classes=["rose", "tulip", "löwenzahn", "other"],
    output="probabilities",
    pixels=RANGES["-1..1"],
    image_size=[8, 8],
    parent="student",
    recipe="tflite.int8",
    split=SplitShares(0.1, 0.2),
    version="0.1.0",
)
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def tflite_file(tflite_files: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(tflite_files["float32"], tmp_path / "a.tflite"))


def add_member(path: Path, content: str | bytes, **options: Any) -> Path:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", content, **options)
    return path


def add_properties(source: Path, path: Path, **values: str) -> Path:
    model = onnx.load(source)
    onnx.helper.set_model_props(model, values)
    onnx.save(model, path)
    return path


def test_the_zip_of_a_tflite_file_is_read(tflite_file: Path) -> None:
    assert read_metadata(tflite_file) is None
    add_member(tflite_file, json.dumps({"names": {"0": "of others"}, "potstill": VALUES}))
    assert read_metadata(tflite_file) == METADATA


def test_the_properties_of_an_onnx_file_are_read(onnx_file: Path, tmp_path: Path) -> None:
    assert read_metadata(onnx_file) is None
    path = add_properties(
        onnx_file, tmp_path / "a.onnx", potstill=json.dumps(VALUES), names="{0: 'theirs'}"
    )
    assert read_metadata(path) == METADATA


def test_an_ending_in_capitals_is_the_same_ending(
    tflite_file: Path, onnx_file: Path, tmp_path: Path
) -> None:
    add_member(tflite_file, json.dumps({"potstill": VALUES}))
    add_properties(onnx_file, tmp_path / "MODEL.ONNX", potstill=json.dumps(VALUES))
    assert read_metadata(tmp_path / "MODEL.ONNX") == METADATA
    assert read_metadata(tflite_file.rename(tmp_path / "MODEL.TFLITE")) == METADATA


def test_the_zip_behind_a_large_model_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.tflite"
    path.write_bytes(bytes(3 * MAX_JSON_BYTES))
    add_member(path, json.dumps({"potstill": VALUES}))
    assert read_metadata(path) == METADATA


def test_the_written_values_are_those_that_are_read() -> None:
    assert METADATA.describe() == VALUES
    assert "split" not in FileMetadata(**{**vars(METADATA), "split": None}).describe()


def test_class_names_that_macos_wrote_have_the_form_of_all_others(tflite_file: Path) -> None:
    names = [unicodedata.normalize("NFD", name) for name in VALUES["classes"]]
    assert names != VALUES["classes"]
    add_member(tflite_file, json.dumps({"potstill": {**VALUES, "classes": names}}))
    assert read_metadata(tflite_file) == METADATA


@pytest.mark.parametrize("content", [{"author": "somebody"}, {"potstill": None}])
def test_metadata_of_other_tools_is_none_of_ours(
    tflite_file: Path, content: object, warnings: list[str]
) -> None:
    assert read_metadata(add_member(tflite_file, json.dumps(content))) is None
    assert warnings == []


def test_keys_of_a_later_version_are_ignored(tflite_file: Path, warnings: list[str]) -> None:
    values = {**VALUES, "later": 1, "pixels": {**VALUES["pixels"], "order": "RGB"}}
    assert read_metadata(add_member(tflite_file, json.dumps({"potstill": values}))) == METADATA
    assert warnings == []


BROKEN_VALUES = {
    "no object": [1, 2],
    "missing values": {"classes": ["a"]},
    "null classes": {**VALUES, "classes": None},
    "no class": {**VALUES, "classes": []},
    "classes that are numbers": {**VALUES, "classes": [1, 2, 3, 4]},
    "classes by number": {**VALUES, "classes": {"0": "a"}},
    "an unknown output": {**VALUES, "output": "embeddings"},
    "pixels without a mean": {**VALUES, "pixels": {"range": [0, 255], "std": [1, 1, 1]}},
    "two means": {**VALUES, "pixels": {"mean": [1, 1], "std": [1, 1, 1]}},
    "a standard deviation of 0": {**VALUES, "pixels": {"mean": [0, 0, 0], "std": [0, 1, 1]}},
    "a mean that is text": {**VALUES, "pixels": {"mean": ["0", 0, 0], "std": [1, 1, 1]}},
    "an infinite mean": {**VALUES, "pixels": {"mean": [float("inf"), 0, 0], "std": [1, 1, 1]}},
    "a size in words": {**VALUES, "image_size": "8 x 8"},
    "an unknown split": {**VALUES, "split": {"train": 0.5}},
    "a share above 1": {**VALUES, "split": {"validation": 0.1, "test": 20}},
    "a name of numbers": {**VALUES, "source": 7},
}


@pytest.mark.parametrize("name", BROKEN_VALUES)
def test_values_of_a_wrong_type_are_ignored_with_one_warning(
    name: str, tflite_file: Path, onnx_file: Path, tmp_path: Path, warnings: list[str]
) -> None:
    values = BROKEN_VALUES[name]
    add_member(tflite_file, json.dumps({"potstill": values}))
    other = add_properties(onnx_file, tmp_path / "a.onnx", potstill=json.dumps(values))
    for path in (tflite_file, other):
        assert read_metadata(path) is None
        assert len(warnings) == 1
        assert warnings.pop().startswith(f"{path}: its metadata is ignored")


BROKEN_JSON = {
    "empty": b"",
    "not text": b"\xff\xfe\x00",
    "not JSON": b"{'names': 1}",
    "deep": DEEP.encode(),
    "deep in an unknown key": b'{"others": ' + DEEP.encode() + b"}",
    "half of a character": b'{"potstill": {"classes": ["\\ud800"]}}',
    "a long number": b'{"potstill": {"classes": ' + b"9" * 10_000 + b"}}",
    "a list": b"[1, 2]",
}


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_json_that_cannot_be_read_is_ignored_with_one_warning(
    name: str, tflite_file: Path, warnings: list[str]
) -> None:
    assert read_metadata(add_member(tflite_file, BROKEN_JSON[name])) is None
    assert len(warnings) == 1


@pytest.mark.parametrize("text", ["", "not JSON", DEEP, "9" * 10_000, " " * (MAX_JSON_BYTES + 1)])
def test_a_property_that_cannot_be_read_is_ignored_with_one_warning(
    text: str, onnx_file: Path, tmp_path: Path, warnings: list[str]
) -> None:
    assert read_metadata(add_properties(onnx_file, tmp_path / "a.onnx", potstill=text)) is None
    assert len(warnings) == 1


def central_entry(content: bytearray) -> int:
    """Where the directory of an archive names its last member."""
    return content.rfind(b"PK\x01\x02")


def encrypt(content: bytearray) -> None:
    content[central_entry(content) + 8] |= 1
    content[content.rfind(b"PK\x03\x04") + 6] |= 1


def name_an_unknown_method(content: bytearray) -> None:
    content[central_entry(content) + 10] = 99


def damage_the_data(content: bytearray) -> None:
    start = content.rfind(b"PK\x03\x04") + 30 + len("metadata.json")
    content[start : start + 4] = b"\xff\xff\xff\xff"


def change_the_checksum(content: bytearray) -> None:
    content[central_entry(content) + 16] ^= 0xFF


def claim_few_bytes(content: bytearray) -> None:
    struct.pack_into("<I", content, central_entry(content) + 24, 10)


def claim_many_bytes(content: bytearray) -> None:
    struct.pack_into("<I", content, central_entry(content) + 24, 1 << 31)


def point_outside(content: bytearray) -> None:
    struct.pack_into("<I", content, central_entry(content) + 42, 1 << 30)


def cut_the_directory(content: bytearray) -> None:
    start = central_entry(content)
    content[start : start + 4] = b"\0\0\0\0"


@pytest.mark.parametrize(
    "damage",
    [
        encrypt,
        name_an_unknown_method,
        damage_the_data,
        change_the_checksum,
        claim_few_bytes,
        claim_many_bytes,
        point_outside,
        cut_the_directory,
    ],
)
def test_an_archive_that_cannot_be_read_is_ignored_with_one_warning(
    damage: Callable[[bytearray], None], tflite_file: Path, warnings: list[str]
) -> None:
    content = bytearray(add_member(tflite_file, json.dumps({"potstill": VALUES})).read_bytes())
    damage(content)
    tflite_file.write_bytes(content)
    assert read_metadata(tflite_file) is None
    assert len(warnings) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_decompress_whole_blocks_are_not_supported(
    method: int, tflite_file: Path, warnings: list[str]
) -> None:
    add_member(tflite_file, json.dumps({"potstill": VALUES}), compress_type=method)
    assert read_metadata(tflite_file) is None
    assert "compressed in a way that is not supported" in warnings[0]


@pytest.mark.parametrize("claims", ["the truth", "little"])
def test_a_zip_bomb_takes_little_memory(tmp_path: Path, claims: str) -> None:
    path = tmp_path / "bomb.tflite"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("metadata.json", "w") as member,
    ):
        for _ in range(512):
            member.write(b"0" * (1 << 20))
    if claims == "little":
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, central_entry(content) + 24, 1000)
        path.write_bytes(content)
    program = (
        "import resource, sys; from pathlib import Path; from eval.metadata import read_metadata\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert read_metadata(Path(sys.argv[1])) is None\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert int(finished.stdout) < 64 * 1024  # KiB: 512 MiB before
    assert finished.stderr.count("its metadata is ignored") == 1


def test_metadata_of_another_number_of_classes_is_ignored(
    tflite_file: Path, warnings: list[str]
) -> None:
    add_member(tflite_file, json.dumps({"potstill": VALUES}))
    assert read_metadata(tflite_file, num_classes=4) == METADATA
    assert read_metadata(tflite_file, num_classes=3) is None
    assert "4 classes, the model 3" in warnings[0]
