"""ONNX files whose weights lie in other files."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from configs.errors import UserError
from eval.devices.probe import ModelFileError, onnx_graph, open_model, weight_files
from eval.footprint import file_bytes, model_sha256, zip_bytes


def split(source: Path, folder: Path, *locations: str) -> Path:
    """The model with its tensors in files of these names, one after the other."""
    content = onnx.load(source)
    bias = numpy_helper.from_array(np.zeros(4, "float32"), "bias")
    content.graph.initializer.append(bias)
    content.graph.node[-1].input[0] = "biased"
    content.graph.node.insert(2, helper.make_node("Add", ["logits", "bias"], ["biased"]))
    folder.mkdir(parents=True, exist_ok=True)
    # The axes have to be inside, because the shapes depend on them.
    for tensor, location in zip(content.graph.initializer[1:], locations, strict=False):
        data = numpy_helper.to_array(tensor).tobytes()
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": location, "offset": "0", "length": str(len(data))}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    # The tensors that no location is left for stay inside.
    (folder / source.name).write_bytes(content.SerializeToString())
    return folder / source.name


LOCATIONS = [
    ["colours.onnx.data"],
    ["matrix.bin", "bias.bin"],
    ["deep/er/matrix", "deep/it's a \u03bc.bin"],
    ["./same.data"],
]


@pytest.mark.parametrize("locations", LOCATIONS)
def test_a_model_is_all_its_files(
    onnx_file: Path, colours: np.ndarray, expected_probs: np.ndarray, tmp_path: Path,
    locations: list[str],
) -> None:  # fmt: skip
    path = split(onnx_file, tmp_path / "model", *locations)
    others = [path.parent / location for location in locations]
    assert weight_files(path) == others
    np.testing.assert_allclose(
        open_model(path).predict(colours.astype("float32")), expected_probs, rtol=1e-5
    )
    parts = [path, *others]
    assert file_bytes(path) == sum(part.stat().st_size for part in parts)
    before = model_sha256(path)
    inside = zip_bytes(path) - zip_bytes(others[0])
    others[0].write_bytes(others[0].read_bytes() * 2)
    assert model_sha256(path) != before
    assert zip_bytes(path) - zip_bytes(others[0]) == inside


def test_a_model_in_one_file_is_named_by_its_bytes(onnx_file: Path) -> None:
    from configs.artifacts import file_sha256

    assert weight_files(onnx_file) == []
    assert model_sha256(onnx_file) == file_sha256(onnx_file)
    assert file_bytes(onnx_file) == onnx_file.stat().st_size


def test_a_second_file_that_is_missing_is_named(onnx_file: Path, tmp_path: Path) -> None:
    path = split(onnx_file, tmp_path / "model", "a.data", "b.data")
    (tmp_path / "model" / "b.data").unlink()
    with pytest.raises(ModelFileError, match=r"second file, b\.data, which is missing in .*model"):
        open_model(path)
    with pytest.raises(UserError, match=r"is not complete: .*b\.data"):
        file_bytes(path)


def test_a_second_file_that_is_cut_off_ends_in_a_sentence(onnx_file: Path, tmp_path: Path) -> None:
    path = split(onnx_file, tmp_path / "model", "matrix.data")
    (tmp_path / "model" / "matrix.data").write_bytes(b"\0" * 5)
    with pytest.raises(ModelFileError, match="no ONNX model, or a damaged one") as caught:
        open_model(path)
    assert ".cc:" not in str(caught.value)


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "a/../../secret", "link/secret"]
)
def test_weights_outside_the_folder_of_the_model_are_refused(
    onnx_file: Path, tmp_path: Path, location: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    for secret in (tmp_path / "secret", tmp_path / "elsewhere" / "secret"):
        secret.write_bytes(b"\0" * 100)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link").symlink_to(tmp_path / "elsewhere")
    content = onnx.load(onnx_file)
    onnx.save(content, tmp_path / "model" / "a.onnx")
    path = tmp_path / "model" / "a.onnx"
    tensor = content.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(content.SerializeToString())
    with pytest.raises(ModelFileError, match="outside its folder"):
        weight_files(path)
    with pytest.raises(ModelFileError, match="outside its folder"):
        open_model(path)


def test_links_into_one_folder_are_followed(
    onnx_file: Path, colours: np.ndarray, tmp_path: Path
) -> None:
    """As in the cache of Hugging Face, where both files are links."""
    split(onnx_file, tmp_path / "blobs", "weights")
    shutil.move(tmp_path / "blobs" / onnx_file.name, tmp_path / "blobs" / "0a1b")
    (tmp_path / "snapshot").mkdir()
    path = tmp_path / "snapshot" / "model.onnx"
    os.symlink("../blobs/0a1b", path)
    os.symlink("../blobs/weights", path.parent / "weights")
    assert weight_files(path) == [path.parent / "weights"]
    assert open_model(path).predict(colours.astype("float32")).argmax(axis=1).tolist() == [0, 1, 2]


def test_weights_in_a_branch_of_a_graph_are_found(onnx_file: Path, tmp_path: Path) -> None:
    content = onnx.load(onnx_file)
    constant = numpy_helper.from_array(np.ones(3, "float32"), "inner")
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="branch.data")
    value = helper.make_node("Constant", [], ["a"], value=constant)
    output = helper.make_tensor_value_info("a", TensorProto.FLOAT, [3])
    branch = helper.make_graph([value], "branch", [], [output])
    test = numpy_helper.from_array(np.array(True), "test")
    content.graph.initializer.append(test)
    content.graph.node.append(
        helper.make_node("If", ["test"], ["b"], then_branch=branch, else_branch=branch)
    )
    path = tmp_path / "a.onnx"
    path.write_bytes(content.SerializeToString())
    (tmp_path / "branch.data").write_bytes(b"\0" * 12)
    assert weight_files(path) == [tmp_path / "branch.data"]


def test_a_graph_is_read_as_the_onnx_package_reads_it(onnx_file: Path, tmp_path: Path) -> None:
    content = onnx.load(onnx_file)
    single = {"scale": np.float32(0.5), "zero": np.int8(-7), "byte": np.uint8(200)}
    for name, value in single.items():
        content.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        # The other way to write a number: in a field of its type.
        kind = helper.np_dtype_to_tensor_dtype(np.array(value).dtype)
        tensor = helper.make_tensor(f"{name} by type", kind, [], [value.item()])
        content.graph.initializer.append(tensor)
    path = tmp_path / "a.onnx"
    path.write_bytes(content.SerializeToString())
    graph = onnx_graph(path)
    assert [(node.operator, node.inputs, node.outputs) for node in graph.nodes] == [
        (node.op_type, list(node.input), list(node.output)) for node in content.graph.node
    ]
    for tensor in content.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert graph.constants[tensor.name] == (array.item() if array.size == 1 else None)
    assert graph.locations == []


def test_a_damaged_file_has_no_second_files(onnx_file: Path, tmp_path: Path) -> None:
    whole = split(onnx_file, tmp_path / "model", "weights.data").read_bytes()
    path = tmp_path / "model" / "damaged.onnx"
    random = np.random.default_rng(0)
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        onnx_graph(path)  # raises nothing
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        onnx_graph(path)
    nested = b""
    for _ in range(200):  # a graph in an attribute of a node of a graph ...
        for key in (b"\x32", b"\x2a", b"\x0a"):
            nested = key + _varint(len(nested)) + nested
    path.write_bytes(b"\x3a" + _varint(len(nested)) + nested)
    assert onnx_graph(path).nodes == []


def _varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


@pytest.mark.parametrize("location", ["x" * 5000, "a/" + "x" * 300, "a\0b"])
def test_a_location_that_no_file_can_have_is_refused(
    onnx_file: Path, tmp_path: Path, location: str
) -> None:
    path = split(onnx_file, tmp_path / "model", "weights.bin")
    content = onnx.load(path, load_external_data=False)
    content.graph.initializer[1].external_data[0].value = location
    path.write_bytes(content.SerializeToString())
    with pytest.raises(ModelFileError, match=r"a file that cannot exist|outside its folder"):
        open_model(path)
