"""Files that other tools wrote: their edges, their layouts and what they answer with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.recipes.flatbuffer import pack
from eval.devices.probe import Edge, ModelFileError, open_model
from tflite_files import flatbuffer

MATRIX = np.array([[4, 0, 0, 1], [0, 4, 0, 1], [0, 0, 4, 1]], "float32") / 255
GREY_MATRIX = np.array([[-4, 0, 4, 1]], "float32") / 255


def chain(
    path: Path, shape: list[int], *links: Any, edges: tuple[int, int], constants: Any
) -> Path:
    """An ONNX file of operators in a row, and what each of them reads besides."""
    names = ["image", *(f"t{i}" for i in range(len(links) - 1)), "answers"]
    nodes = [
        helper.make_node(operator, [before, *inputs], [after], **attributes)
        for (operator, inputs, attributes), before, after in zip(
            links, names, names[1:], strict=False
        )
    ]
    first = helper.make_tensor_value_info("image", edges[0], shape)
    last = helper.make_tensor_value_info("answers", edges[1], None)
    tensors = [numpy_helper.from_array(np.array(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "chain", [first], [last], tensors)
    opset = [helper.make_opsetid("", 19)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def softmax_of_mean(
    path: Path,
    shape: list[int],
    *,
    before: tuple[Any, ...] = (),
    behind: tuple[Any, ...] = (("Softmax", [], {}),),
    edges: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    axes: tuple[int, int] = (1, 2),
    matrix: np.ndarray = MATRIX,
    **constants: Any,
) -> Path:
    mean = ("ReduceMean", ["axes"], {"keepdims": 0})
    dense = ("MatMul", ["matrix"], {})
    tensors = {"axes": np.array(axes, "int64"), "matrix": matrix, **constants}
    return chain(path, shape, *before, mean, dense, *behind, edges=edges, constants=tensors)


SOFTMAX = ("Softmax", [], {})
DEQUANTIZE = ("DequantizeLinear", ["scale", "zero"], {})
QUANTIZE = ("QuantizeLinear", ["scale", "zero"], {})
TO_FLOAT = ("Cast", [], {"to": TensorProto.FLOAT})


@pytest.mark.parametrize(
    ("dtype", "scale", "zero"),
    [("uint8", 1.0, 0), ("int8", 1.0, -128), ("uint8", 255 / 250, 0), ("int8", 1.2, -100)],
)
def test_an_onnx_input_is_rounded_to_its_scale(
    tmp_path: Path, colours: np.ndarray, expected_probs: np.ndarray, dtype: str, scale: float,
    zero: int,
) -> None:  # fmt: skip
    path = softmax_of_mean(
        tmp_path / "a.onnx",
        [1, 8, 8, 3],
        before=(DEQUANTIZE,),
        edges=(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), TensorProto.FLOAT),
        scale=np.float32(scale),
        zero=np.array(zero, dtype),
    )
    model = open_model(path)
    assert model.input == Edge(dtype, np.float32(scale), zero)
    # Half a step of an input is a 500th of a logit at most.
    np.testing.assert_allclose(model.predict(colours.astype("float32")), expected_probs, atol=2e-3)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "int32", "int64", "uint32", "float16", "float32", "float64"]
)
def test_an_onnx_input_without_a_scale_gets_the_pixels_in_its_type(
    tmp_path: Path, colours: np.ndarray, expected_probs: np.ndarray, dtype: str
) -> None:
    path = softmax_of_mean(
        tmp_path / "a.onnx",
        [1, 3, 8, 8],
        before=(TO_FLOAT,),
        edges=(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), TensorProto.FLOAT),
        axes=(2, 3),
    )
    model = open_model(path)
    assert model.input == Edge(dtype)
    assert model.input.is_whole == (np.dtype(dtype).kind != "f")
    np.testing.assert_allclose(model.predict(colours.astype("float32")), expected_probs, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero"), [("uint8", 1 / 256, 0), ("int8", 1 / 256, -128)]
)
@pytest.mark.parametrize("shape", [[1, 4], [1, 4, 1, 1]])
def test_an_onnx_output_is_read_by_its_scale(
    tmp_path: Path, colours: np.ndarray, expected_probs: np.ndarray, dtype: str, scale: float,
    zero: int, shape: list[int],
) -> None:  # fmt: skip
    path = softmax_of_mean(
        tmp_path / "a.onnx",
        [1, 8, 8, 3],
        behind=(SOFTMAX, QUANTIZE, ("Reshape", ["form"], {})),
        edges=(TensorProto.FLOAT, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))),
        scale=np.float32(scale),
        zero=np.array(zero, dtype),
        form=np.array(shape, "int64"),
    )
    model = open_model(path)
    probs = model.predict(colours.astype("float32"))
    np.testing.assert_allclose(probs, expected_probs, atol=0.5 / 256 + 1e-6)  # half a step
    assert model.answers == "probabilities"


def test_an_onnx_output_of_float16_is_read(
    tmp_path: Path, colours: np.ndarray, expected_probs: np.ndarray
) -> None:
    path = softmax_of_mean(
        tmp_path / "a.onnx",
        [1, 8, 8, 3],
        behind=(SOFTMAX, ("Cast", [], {"to": TensorProto.FLOAT16})),
        edges=(TensorProto.FLOAT, TensorProto.FLOAT16),
    )
    probs = open_model(path).predict(colours.astype("float32"))
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs, expected_probs, rtol=1e-3)  # ten bits of fraction


@pytest.mark.parametrize(
    ("behind", "dtype"),
    [
        ((("ArgMax", [], {"axis": 1, "keepdims": 1}),), TensorProto.INT64),
        ((("Cast", [], {"to": TensorProto.UINT8}),), TensorProto.UINT8),
    ],
)
def test_an_output_of_whole_numbers_without_a_scale_is_refused(
    tmp_path: Path, behind: tuple[Any, ...], dtype: int
) -> None:
    edges = (TensorProto.FLOAT, dtype)
    path = softmax_of_mean(tmp_path / "a.onnx", [1, 8, 8, 3], behind=behind, edges=edges)
    with pytest.raises(ModelFileError, match=r"output of type u?int\d+ without a scale"):
        open_model(path)


def test_an_input_of_truth_values_is_refused(tmp_path: Path) -> None:
    edges = (TensorProto.BOOL, TensorProto.FLOAT)
    path = softmax_of_mean(tmp_path / "a.onnx", [1, 8, 8, 3], before=(TO_FLOAT,), edges=edges)
    with pytest.raises(ModelFileError, match=r"input of type tensor\(bool\); expected numbers"):
        open_model(path)


@pytest.mark.parametrize(
    ("shape", "num_classes"),
    [([1, 4, 1, 1], 4), ([1, 1, 1, 4], 4), ([4], 4), ([1, 2, 2], None), ([2, 2], None)],
)
def test_the_classes_of_an_output_stand_in_any_place(
    tmp_path: Path, colours: np.ndarray, expected_probs: np.ndarray, shape: list[int],
    num_classes: int | None,
) -> None:  # fmt: skip
    path = softmax_of_mean(
        tmp_path / "a.onnx",
        [1, 8, 8, 3],
        behind=(SOFTMAX, ("Reshape", ["form"], {})),
        form=np.array(shape, "int64"),
    )
    if num_classes is None:
        with pytest.raises(ModelFileError, match=r"expected \(batch, classes\)"):
            open_model(path)
        return
    model = open_model(path)
    assert model.num_classes == num_classes
    np.testing.assert_allclose(model.predict(colours.astype("float32")), expected_probs, rtol=1e-5)


@pytest.mark.parametrize(("shape", "axes"), [([1, 8, 8, 1], (1, 2)), ([1, 1, 8, 8], (2, 3))])
def test_a_grey_onnx_file_takes_one_channel(
    tmp_path: Path, shape: list[int], axes: tuple[int, int]
) -> None:
    model = open_model(softmax_of_mean(tmp_path / "a.onnx", shape, axes=axes, matrix=GREY_MATRIX))
    assert model.input_shape == (8, 8, 1)
    images = np.stack([np.full((8, 8, 1), value, "float32") for value in (0, 255)])
    logits = np.array([[0, 0, 0, 0], [-4, 0, 4, 1]])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(images), expected, rtol=1e-5)


def test_the_layout_decides_where_the_shape_does_not(tmp_path: Path) -> None:
    last = softmax_of_mean(tmp_path / "last.onnx", [1, 3, 8, 3])
    first = softmax_of_mean(tmp_path / "first.onnx", [1, 3, 8, 3], axes=(2, 3))
    shapes = [open_model(last).input_shape, open_model(last, layout="nhwc").input_shape]
    assert shapes == [(3, 8, 3), (3, 8, 3)]
    model = open_model(first, layout="nchw")
    assert model.input_shape == (8, 3, 3)
    image = np.zeros((1, 8, 3, 3), "float32")
    image[..., 1] = 255
    assert model.predict(image).argmax() == 1


def test_a_layout_that_the_shape_contradicts_is_refused(tmp_path: Path) -> None:
    path = softmax_of_mean(tmp_path / "a.onnx", [1, 8, 8, 3])
    with pytest.raises(ModelFileError, match=r"three channels .* or one .* where nchw has its"):
        open_model(path, layout="nchw")


@pytest.mark.parametrize(
    ("behind", "answers"),
    [
        ((SOFTMAX,), "probabilities"),
        ((("Sigmoid", [], {}),), "scores"),
        ((("Add", ["bias"], {}),), "logits"),
        ((("Add", ["bias"], {}), SOFTMAX, ("Identity", [], {})), "probabilities"),
        ((("LogSoftmax", [], {}),), "logits"),
        ((("Tanh", [], {}),), None),
    ],
)
def test_the_last_operator_says_what_the_answers_are(
    tmp_path: Path, behind: tuple[Any, ...], answers: str | None
) -> None:
    bias = np.zeros(4, "float32")
    path = softmax_of_mean(tmp_path / "a.onnx", [1, 8, 8, 3], behind=behind, bias=bias)
    assert open_model(path).answers == answers


def test_the_sum_of_two_softmaxes_leaves_the_answers_open(tmp_path: Path) -> None:
    path = softmax_of_mean(tmp_path / "a.onnx", [1, 8, 8, 3])
    content = onnx.load(path)
    (softmax,) = (node for node in content.graph.node if node.op_type == "Softmax")
    softmax.output[0] = "first"
    second = helper.make_node("Softmax", list(softmax.input), ["second"])
    content.graph.node.extend([second, helper.make_node("Add", ["first", "second"], ["answers"])])
    onnx.save(content, path)
    assert open_model(path).answers is None


Tflite = Callable[..., Path]


@pytest.fixture
def make_tflite(tmp_path: Path) -> Tflite:
    """Converts a function of one image."""
    import tensorflow as tf

    def convert(function: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any) -> Path:
        module = tf.Module()
        module.call = tf.function(function, input_signature=[tf.TensorSpec(shape, dtype)])
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.call.get_concrete_function()], module
        )
        path = tmp_path / "foreign.tflite"
        path.write_bytes(converter.convert())
        return path

    return convert


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "uint8"])
def test_a_tflite_file_with_channels_first_takes_every_type(
    make_tflite: Tflite, colours: np.ndarray, expected_probs: np.ndarray, dtype: str
) -> None:
    import tensorflow as tf

    def answers(image: Any) -> Any:
        mean = tf.reduce_mean(tf.cast(image, tf.float32), axis=[2, 3])
        return tf.reshape(tf.nn.softmax(mean @ MATRIX), [1, 4, 1, 1])

    model = open_model(make_tflite(answers, (1, 3, 8, 8), dtype))
    assert (model.input_shape, model.input, model.num_classes) == ((8, 8, 3), Edge(dtype), 4)
    assert model.answers == "probabilities"
    np.testing.assert_allclose(model.predict(colours.astype("float32")), expected_probs, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 1, 8, 8)])
def test_a_grey_tflite_file_with_one_score(make_tflite: Tflite, shape: tuple[int, ...]) -> None:
    import tensorflow as tf

    def score(image: Any) -> Any:
        mean = tf.reduce_mean(image, axis=[1, 2] if shape[3] == 1 else [2, 3])
        return tf.sigmoid(mean @ np.array([[0.01]], "float32"))

    model = open_model(make_tflite(score, shape, "float32"))
    assert (model.input_shape, model.num_classes, model.answers) == ((8, 8, 1), 1, "score")
    scores = model.predict(np.full((3, 8, 8, 1), 100, "float32"))
    np.testing.assert_allclose(scores, np.full((3, 1), 1 / (1 + np.exp(-1))), rtol=1e-5)


def test_a_tflite_file_that_asks_for_gigabytes_is_refused(make_tflite: Tflite) -> None:
    import tensorflow as tf

    path = make_tflite(
        lambda image: tf.reduce_mean(tf.nn.max_pool2d(image, 2, 2, "VALID"), axis=[1, 2]),
        (1, 8, 8, 3),
        "float32",
    )
    model = flatbuffer(path)
    (pooled,) = [t for t in model.subgraphs[0].tensors if list(t.shape) == [1, 4, 4, 3]]
    pooled.shape = [1, 4, 4, 2**31 - 1]
    path.write_bytes(pack(model))
    with pytest.raises(ModelFileError, match=r"of shape \[1, 4, 4, 2147483647\] .* 128 GiB"):
        open_model(path)


def test_an_onnx_file_with_an_impossible_input_is_refused(tmp_path: Path) -> None:
    path = softmax_of_mean(tmp_path / "model.onnx", [1, 2**40, 2**40, 3])
    with pytest.raises(ModelFileError, match=r"its input of shape .* which no classifier"):
        open_model(path)


def test_a_tflite_file_of_labels_is_refused(make_tflite: Tflite) -> None:
    import tensorflow as tf

    path = make_tflite(
        lambda image: tf.argmax(tf.reduce_mean(image, axis=[1, 2]), axis=1), (1, 8, 8, 3), "float32"
    )
    with pytest.raises(ModelFileError, match="output of type int64 without a scale"):
        open_model(path)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("edgetpu-custom-op", r"compiled for the Edge TPU .* NAME\.tflite instead of"),
        ("MyOwnOp", r"lacks its operator MyOwnOp, .* TFLITE_BUILTINS"),
        ("FlexErf", r"lacks its operator FlexErf"),
    ],
)
def test_an_operator_that_no_runtime_has_is_named(
    tflite_files: dict[str, Path], tmp_path: Path, operator: str, message: str
) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer(tflite_files["int8"])
    graph = model.subgraphs[0]
    code = model.operatorCodes[graph.operators[1].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = operator
    for node in graph.operators:
        if model.operatorCodes[node.opcodeIndex] is code:
            node.builtinOptions, node.builtinOptionsType = None, 0
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "a_edgetpu.tflite"
    path.write_bytes(bytes(builder.Output()))
    with pytest.raises(ModelFileError, match=message):
        open_model(path)


def test_the_edge_of_a_quantized_input_says_its_range() -> None:
    assert Edge("uint8", 1.0, 0).limits == (0, 255)
    assert Edge("int8", 1 / 128, 0).limits == (-1, 127 / 128)
    assert Edge("float32").limits is None
    pixels = np.arange(256, dtype="float32")
    np.testing.assert_array_equal(Edge("uint8", 1.0, 0).encoded(pixels), np.arange(256))
    np.testing.assert_array_equal(Edge("int8", 2.0, 3).decoded(np.array([5, -3])), [4, -12])
