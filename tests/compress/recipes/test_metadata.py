"""The metadata of files, read back with other code: raw flatbuffers, zipfile, onnx."""

import ast
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import number_types
from flatbuffers.table import Table
from onnx import TensorProto, helper

from compress.recipes.metadata import write_metadata
from configs.contract import RANGES
from eval.metadata import FileMetadata, read_metadata

METADATA = FileMetadata(
    classes=["rose", "it's", "löwenzahn\n😀"],
    output="probabilities",
    pixels=RANGES["0..1"],
    image_size=[4, 4],
    parent="student",
    recipe="tflite.int8",
)
NAMES = dict(enumerate(METADATA.classes))
IMAGES = np.random.default_rng(1).uniform(0, 1, (8, 1, 4, 4, 3)).astype("float32")
IMAGES[0], IMAGES[1] = 0, 1  # the range of a quantized input is then 0..1


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """A classifier that takes 0..1, by the type of its input."""

    class MeanColour(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 4, 4, 3), tf.float32)])
        def __call__(self, image: Any) -> Any:
            return tf.nn.softmax(4 * tf.reduce_mean(image, axis=[1, 2]))

    module = MeanColour()
    models = {}
    for name in ("float32", "uint8"):
        function = module.__call__.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        if name == "uint8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image] for image in IMAGES)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        models[name] = converter.convert()
    return models


@pytest.fixture(params=["float32", "uint8"])
def tflite_file(request: pytest.FixtureRequest, models: dict[str, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "a.tflite"
    path.write_bytes(models[request.param])
    return path


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Softmax", ["a"], ["b"])], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path / "a.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


class Raw:
    """A table of a flatbuffer by the numbers of its members, without any schema."""

    def __init__(self, content: bytes, position: int | None = None) -> None:
        start = Table(content, 0)
        self.table = Table(content, start.Indirect(0) if position is None else position)

    def field(self, slot: int) -> int:
        return int(self.table.Offset(4 + 2 * slot))

    def text(self, slot: int) -> str:
        return self.table.String(self.table.Pos + self.field(slot)).decode()

    def number(self, slot: int, kind: Any) -> int:
        return int(self.table.Get(kind, self.table.Pos + self.field(slot)))

    def child(self, slot: int) -> "Raw":
        position = self.table.Indirect(self.table.Pos + self.field(slot))
        return Raw(self.table.Bytes, position)

    def children(self, slot: int) -> list["Raw"]:
        start = self.table.Vector(self.field(slot))
        count = self.table.VectorLen(self.field(slot))
        return [Raw(self.table.Bytes, self.table.Indirect(start + 4 * i)) for i in range(count)]

    def array(self, slot: int, dtype: str) -> np.ndarray:
        start, count = self.table.Vector(self.field(slot)), self.table.VectorLen(self.field(slot))
        return np.frombuffer(self.table.Bytes, dtype, count, start)


def tflite_metadata(path: Path) -> bytes:
    """The buffer that the model's table of metadata (member 6) calls TFLITE_METADATA."""
    model = Raw(path.read_bytes())
    entries = {e.text(0): e.number(1, number_types.Uint32Flags) for e in model.children(6)}
    buffer = model.children(4)[entries["TFLITE_METADATA"]]
    assert buffer.table.Vector(buffer.field(0)) % 16 == 0  # as the schema demands
    return buffer.array(0, "uint8").tobytes()


def answers(path: Path) -> np.ndarray:
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (image,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    pixels = (255 * IMAGES[2]).round()
    values = pixels / 255 if image["dtype"] == np.float32 else pixels
    interpreter.set_tensor(image["index"], values.astype(image["dtype"]))
    interpreter.invoke()
    return np.array(interpreter.get_tensor(answer["index"]))


def test_the_file_still_runs_and_answers_the_same(tflite_file: Path) -> None:
    before = answers(tflite_file)
    write_metadata(tflite_file, METADATA)
    np.testing.assert_array_equal(answers(tflite_file), before)
    assert read_metadata(tflite_file) == METADATA


def test_tflite_metadata_names_pixels_output_and_labels(tflite_file: Path) -> None:
    # Members and enumerations by their numbers in metadata_schema.fbs.
    write_metadata(tflite_file, METADATA)
    content = tflite_metadata(tflite_file)
    assert content[4:8] == b"M001"
    (graph,) = Raw(content).children(3)
    (image,), (answer,) = graph.children(2), graph.children(3)
    assert image.child(3).number(0, number_types.Uint8Flags) == 2  # an image
    assert image.child(3).child(1).number(0, number_types.Int8Flags) == 1  # in RGB
    (unit,) = image.children(4)
    assert unit.number(0, number_types.Uint8Flags) == 1  # to be normalized
    assert unit.child(1).array(0, "float32").tolist() == [0, 0, 0]
    assert unit.child(1).array(1, "float32").tolist() == [255, 255, 255]
    assert answer.text(0) == "probabilities"
    (labels,) = answer.children(6)
    assert labels.text(0) == "labels.txt"
    assert labels.number(2, number_types.Int8Flags) == 2  # labels along the axis


def test_normalization_then_quantization_is_what_a_uint8_input_takes(
    models: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(models["uint8"])
    write_metadata(path, METADATA)
    (unit,) = Raw(tflite_metadata(path)).children(3)[0].children(2)[0].children(4)
    mean, std = (unit.child(1).array(slot, "float32")[0] for slot in (0, 1))
    interpreter = Interpreter(str(path))
    scale, zero_point = interpreter.get_input_details()[0]["quantization"]
    pixels = np.arange(256)
    np.testing.assert_array_equal(np.round((pixels - mean) / std / scale + zero_point), pixels)


def test_the_zip_is_what_mediapipe_and_ultralytics_read(tflite_file: Path) -> None:
    write_metadata(tflite_file, METADATA)
    with zipfile.ZipFile(tflite_file) as archive:
        members = archive.infolist()
        assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}
        assert archive.read("labels.txt").decode() == "rose\nit's\nlöwenzahn 😀\n"
        text = archive.read(members[0]).decode()  # older readers take the first member
    metadata = json.loads(text)
    assert ast.literal_eval(text) == metadata  # and some readers evaluate it as Python
    assert {int(number): name for number, name in metadata["names"].items()} == NAMES
    assert metadata["task"] == "classify"
    assert metadata["imgsz"] == [4, 4]
    assert (metadata["stride"], metadata["batch"], metadata["channels"]) == (1, 1, 3)
    # Offsets count from the start of the file, so that readers need no repair.
    assert tflite_file.read_bytes()[members[0].header_offset :].startswith(b"PK\3\4")


def test_onnx_properties_are_what_ultralytics_reads(onnx_file: Path) -> None:
    write_metadata(onnx_file, METADATA)
    props = {prop.key: prop.value for prop in onnx.load(onnx_file).metadata_props}
    assert ast.literal_eval(props["names"]) == NAMES
    assert ast.literal_eval(props["imgsz"]) == [4, 4]
    assert [int(props[key]) for key in ("stride", "batch", "channels")] == [1, 1, 3]
    assert props["task"] == "classify"
    assert read_metadata(onnx_file) == METADATA


def test_the_same_model_has_the_same_bytes(tflite_file: Path, onnx_file: Path) -> None:
    for path in (tflite_file, onnx_file):
        other = path.with_name("other" + path.suffix)
        other.write_bytes(path.read_bytes())
        write_metadata(path, METADATA)
        write_metadata(other, METADATA)
        assert path.read_bytes() == other.read_bytes()


def test_a_file_gets_metadata_once(tflite_file: Path) -> None:
    write_metadata(tflite_file, METADATA)
    with pytest.raises(ValueError, match="already"):
        write_metadata(tflite_file, METADATA)
