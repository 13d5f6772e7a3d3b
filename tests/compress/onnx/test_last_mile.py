"""An ONNX model as PyTorch exports it becomes an int8 file with its contract inside."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from compress import standalone
from compress.onnx.last_mile import off_the_grid
from compress.onnx.raw_pixels import with_raw_pixels
from configs.contract import RANGES, InputContract, Pixels
from configs.errors import UserError
from eval.devices.probe import open_model

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def net(
    path: Path,
    *,
    channels_first: bool = True,
    channels: int = 3,
    classes: int = 3,
    opset: int = 17,
    batch: int | str = "batch",
) -> Path:
    """Conv, ReLU, mean, Gemm: logits that grow with the colour of the class."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.02, (8, channels, 3, 3)).astype("float32")
    kernel[:channels] += np.eye(channels, dtype="float32")[:, :, None, None] / 9
    head = rng.normal(0, 0.02, (classes, 8)).astype("float32")
    head[: min(classes, channels), : min(classes, channels)] += 4 * np.eye(min(classes, channels))
    shape = [batch, channels, 16, 16] if channels_first else [batch, 16, 16, channels]
    nodes = []
    if not channels_first:
        nodes.append(helper.make_node("Transpose", ["photo"], ["first"], perm=[0, 3, 1, 2]))
    nodes += [
        helper.make_node(
            "Conv", ["photo" if channels_first else "first", "k", "b"], ["c"], "conv", pads=[1] * 4
        ),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "h", "d"], ["logits"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("photo", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [
            numpy_helper.from_array(kernel, "k"),
            numpy_helper.from_array(np.zeros(8, "float32"), "b"),
            numpy_helper.from_array(head, "h"),
            numpy_helper.from_array(np.zeros(classes, "float32"), "d"),
        ],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, path)
    return path


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize(
    "contract",
    [
        InputContract(answers="logits"),
        InputContract(answers="logits", pixels=RANGES["torch"]),
        InputContract(answers="logits", pixels=RANGES["caffe"], channels="bgr"),
        InputContract(answers="logits", pixels=Pixels((10, 20, 30), (2, 3, 4)), channels="bgr"),
    ],
)
def test_the_contract_moves_into_the_graph(
    contract: InputContract, channels_first: bool, tmp_path: Path
) -> None:
    path = net(tmp_path / "net.onnx", channels_first=channels_first)
    raw = tmp_path / "raw.onnx"
    onnx.save(with_raw_pixels(onnx.load(path), contract), raw)
    images = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3)).astype("uint8")
    expected = softmax(open_model(path).predict(contract.apply(images)))
    model = open_model(raw)
    assert model.input_shape == (16, 16, 3)
    np.testing.assert_allclose(model.predict(images.astype("float32")), expected, atol=1e-5)


def test_an_old_opset_is_converted(tmp_path: Path) -> None:
    path = net(tmp_path / "net.onnx", opset=11)
    model = with_raw_pixels(onnx.load(path), InputContract(answers="logits"))
    assert model.opset_import[0].version == 13


def test_a_grey_model_keeps_its_channel(tmp_path: Path) -> None:
    path = net(tmp_path / "net.onnx", channels=1, classes=2)
    contract = InputContract(answers="logits", channels="grey", pixels=RANGES["0..1"])
    raw = tmp_path / "raw.onnx"
    onnx.save(with_raw_pixels(onnx.load(path), contract), raw)
    assert open_model(raw).input_shape == (16, 16, 1)


def test_one_score_becomes_two_probabilities(tmp_path: Path) -> None:
    path = net(tmp_path / "net.onnx", classes=1)
    raw = tmp_path / "raw.onnx"
    onnx.save(with_raw_pixels(onnx.load(path), InputContract(answers="logits")), raw)
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype("float32") / 255
    score = open_model(path).predict(images)[:, -1:]
    second = 1 / (1 + np.exp(-score))
    expected = np.hstack([1 - second, second])
    np.testing.assert_allclose(open_model(raw).predict(images), expected, atol=1e-5)


def test_in_minus_1_to_1_no_byte_lies_between_two_steps() -> None:
    low, high = off_the_grid((-1.0, 1.0))
    scale = (high - low) / 255
    zero = round(-low / scale)
    steps = (np.arange(256) - 127.5) / 127.5 / scale + zero
    distance = np.abs(steps - np.floor(steps) - 0.5)
    assert np.mean(distance < 0.01) < 0.05  # all of them without the half step


def test_the_program_writes_and_measures_the_int8_file(
    program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "NUM_RUNS", 20)
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            pixels = np.array(colour) + rng.normal(0, 20, (16, 16, 3))
            photo = Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))
            photo.save(tmp_path / "photos" / name / f"{i}.png")
    path = net(tmp_path / "net.onnx")
    # Its channels are red, green and blue, and so are its classes.
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    words = ["compress", "quantize", path, "--data", tmp_path / "photos", "--pixels", "0..1"]
    outcome = program(*words, "--json")
    assert outcome.code == 0, outcome.err
    float_row, row = json.loads(outcome.out.splitlines()[-1])["files"]
    assert float_row["accuracy"]["top1"] == 1.0
    assert (row["name"], row["recipe"]) == ("net-int8.onnx", "onnx.int8")
    assert row["accuracy"]["agreement_with_source"] == 1.0
    # The float file answers with logits, and the new one with probabilities.
    assert row["accuracy"]["nll"] == pytest.approx(float_row["accuracy"]["nll"], abs=0.02)
    kinds = {node.op_type for node in onnx.load(tmp_path / "net-int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds

    # The file needs no option: its labels and pixels are inside.
    again = program(
        "evaluate", "accuracy", tmp_path / "net-int8.onnx", "--data", tmp_path / "photos", "--json"
    )
    assert json.loads(again.out.splitlines()[-1])["files"][0]["accuracy"]["top1"] == 1.0
    assert "net-int8.onnx: up to date" in program(*words).err
    refused = program(*words, "--recipe", "float32")
    assert refused.code == 2
    assert "becomes int8 only, not onnx.float32. Type --recipe int8" in refused.err


def test_keep_float_needs_a_keras_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="keep_float needs gradients"):
        standalone.quantize_model(
            net(tmp_path / "net.onnx"),
            data=tmp_path,
            recipes=["int8:keep_float=0.5"],
            out=None,
            budget=None,
        )
