from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema

from compress.int8.calibration import CalibratedModel
from compress.int8.precision import (
    Operation,
    choose_float_operations,
    describe_precision,
    layers_of_operations,
    rounded_tensors,
)
from compress.int8.ranges import FileRanges, choose_ranges
from compress.recipes import RECIPES, tflite
from compress.recipes.conversion import Conversion
from compress.recipes.converters import run_tflite_converter, tflite_converter
from compress.recipes.flatbuffer import operations_of
from configs.errors import UserError

Op = schema.BuiltinOperator
NAMED = {"input_offset", "stem", "depthwise", "gate", "project", "hidden", "logits"}
"""The layers of the tiny model that have names of their own."""


@pytest.fixture(scope="module")
def calibrated(tiny_model, images) -> CalibratedModel:
    return CalibratedModel(tiny_model, images)


@pytest.fixture(scope="module")
def operations_and_ranges(calibrated):
    content = run_tflite_converter(tflite_converter(calibrated.traced, "logits"))
    return operations_of(content), choose_ranges(
        tflite.tensor_reader(content), calibrated, ranges="loss"
    )


def written(model: keras.Model, images: np.ndarray, path, **options) -> dict:
    recipe = "tflite.int8" if path.suffix == ".tflite" else "onnx.int8"
    return RECIPES[recipe](
        Conversion(model, lambda: iter(images)), path, output="probabilities", **options
    )


def float_kinds(path) -> list[int]:
    """The kinds of operations that compute in float, in their order."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    floats = {i for i, t in enumerate(graph.tensors) if t.type == schema.TensorType.FLOAT32}
    return [
        model.operatorCodes[operator.opcodeIndex].builtinCode
        for operator in graph.operators
        if int(operator.inputs[0]) in floats and int(operator.outputs[0]) in floats
    ]


def test_a_tensor_is_rounded_unless_all_its_operations_are_in_float() -> None:
    chain = [
        Operation("a", ["image"], ["x"]),
        Operation("b", ["x"], ["y"]),
        Operation("c", ["x", "y"], ["z"]),
    ]
    assert rounded_tensors(chain, set()) == ["image", "x", "y", "z"]
    assert rounded_tensors(chain, {"b"}) == ["image", "x", "y", "z"]
    assert rounded_tensors(chain, {"b", "c"}) == ["image", "x"]
    assert rounded_tensors(chain, {"a", "b", "c"}) == []


def test_operations_are_of_the_layers_that_they_compute(calibrated, operations_and_ranges) -> None:
    operations, ranges = operations_and_ranges
    computed = layers_of_operations(operations, ranges, calibrated)
    layers = [computed[operation.name] for operation in operations]
    # A convolution is computed with its padding, and a swish by two operations.
    assert layers[0] == {"input_offset"}
    assert layers[1] & NAMED == {"stem"}
    assert len(layers[1]) == 2
    assert layers[2] == layers[3]
    assert len(layers[2]) == 1
    assert "hidden" in layers[-4] & layers[-3] & layers[-2]
    assert layers[-1] == {"logits"}


def test_named_layers_stay_in_float_and_nothing_is_rounded_between_them(
    tiny_model, images, tmp_path
) -> None:
    path = tmp_path / "named.tflite"
    facts = written(tiny_model, images, path, keep_float=["stem", "hidden", "logits"])
    assert NAMED & set(facts.kept_float) == {"stem", "hidden", "logits"}
    # The swish of `hidden` is part of the layer; the stem's is not part of `stem`.
    assert float_kinds(path) == [
        Op.CONV_2D, Op.FULLY_CONNECTED, Op.LOGISTIC, Op.MUL, Op.FULLY_CONNECTED
    ]  # fmt: skip
    expected = keras.ops.softmax(tiny_model.predict_on_batch(images))
    answer = tflite.Interpreter(str(path)).get_signature_runner()(image=images[:1])
    np.testing.assert_allclose(answer["probabilities"], expected[:1], atol=0.1)


def test_an_onnx_file_keeps_named_layers_in_float(tiny_model, images, tmp_path) -> None:
    path = tmp_path / "named.onnx"
    written(tiny_model, images, path, keep_float=["project"])
    graph = onnx.load(path).graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    kernels = [producers.get(n.input[1], "constant") for n in graph.node if n.op_type == "Conv"]
    assert sorted(kernels) == ["DequantizeLinear"] * 3 + ["constant"]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_share_leaves_the_most_expensive_in_float(
    calibrated, operations_and_ranges, share
) -> None:
    operations, ranges = operations_and_ranges
    costs = ranges.costs(calibrated)
    in_float = choose_float_operations(operations, ranges, calibrated, share)

    def cost(in_float: set) -> float:
        by_twin = {
            ranges.twins[n]: costs[n] for n in rounded_tensors(operations, in_float) if n in costs
        }
        return sum(by_twin.values())

    assert cost(in_float) <= (1 - share) * cost(set())
    assert 0 < len(in_float) < len(operations)
    most_expensive = max(costs, key=lambda name: costs[name])
    assert most_expensive not in rounded_tensors(operations, in_float)


def test_a_tensor_that_a_file_has_twice_costs_once() -> None:
    chain = [
        Operation("a", ["image"], ["x"]),
        Operation("reshape", ["x"], ["copy"]),
        Operation("b", ["copy"], ["y"]),
    ]
    ranges = FileRanges(
        dict.fromkeys(["x", "copy", "y"], (0.0, 1.0)), {"x": "first", "copy": "first", "y": "last"}
    )
    # 5 nats in all: half of them are saved as soon as `b` is in float.
    nats = {"first": 2.0, "last": 3.0}
    sensitivities = {
        layer: SimpleNamespace(cost_within=lambda low, high, cost=cost: cost)
        for layer, cost in nats.items()
    }
    calibrated = SimpleNamespace(sensitivities=sensitivities, model=SimpleNamespace(layers=[]))
    assert choose_float_operations(chain, ranges, calibrated, keep=0.5) == {"b"}


def test_the_most_expensive_layers_come_first(calibrated, operations_and_ranges) -> None:
    operations, ranges = operations_and_ranges
    precision = describe_precision(operations, ranges, calibrated, set(), is_measured=True)
    nats = [cost.nats for cost in precision.rounding]
    assert precision.kept_float == []
    assert nats == sorted(nats, reverse=True)
    for cost in precision.rounding:
        holders = [name for name, layer in ranges.twins.items() if layer == cost.layer]
        tensor = calibrated.sensitivities[cost.layer]
        costs = {tensor.cost_within(*ranges.ranges[name]) for name in holders}
        assert cost.nats == pytest.approx(max(costs), rel=0.01)
    in_float = choose_float_operations(operations, ranges, calibrated, 0.9)
    after = describe_precision(operations, ranges, calibrated, in_float, is_measured=True)
    assert precision.rounding[0].layer not in [cost.layer for cost in after.rounding]
    assert after.kept_float


def test_an_unknown_layer_is_refused_with_the_nearest(tiny_model, images, tmp_path) -> None:
    with pytest.raises(UserError, match=r"names 'stemm', .* Did you mean stem"):
        written(tiny_model, images, tmp_path / "file.tflite", keep_float=["stemm"])


def test_an_edge_in_float_has_no_integer_type(tiny_model, images, tmp_path) -> None:
    with pytest.raises(UserError, match="keep_float leaves it in float"):
        written(
            tiny_model, np.round(images), tmp_path / "file.tflite",
            keep_float=["input_offset"], input_type="uint8",
        )  # fmt: skip


def test_options_are_checked() -> None:
    check = RECIPES.check
    assert check("tflite.int8", {"keep_float": ["stem"]})["keep_float"] == ["stem"]
    assert check("onnx.int8", {"keep_float": 0.5})["keep_float"] == 0.5
    for bad in (1.5, "stem", {"stem": 1}):
        with pytest.raises(UserError, match="option keep_float"):
            check("tflite.int8", {"keep_float": bad})
