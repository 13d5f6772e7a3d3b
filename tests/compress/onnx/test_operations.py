"""Layers whose operations tf2onnx lacks, or writes badly: in ONNX files they answer as in Keras."""

import os
from collections import Counter
from contextlib import nullcontext

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import tf2onnx
from keras import layers
from tf2onnx.graph import Node

from compress.graph.inference import TracedModel
from compress.onnx import convert
from compress.onnx.convert import convert_to_onnx
from compress.onnx.operations import MatrixProduct
from compress.recipes.conversion import Conversion
from compress.recipes.onnx import RECIPES
from eval.devices.probe import open_model
from small_models import logits_of, random_images

IR_VERSION, OPSET = 8, 17
"""onnxruntime 1.15 reads these and nothing newer."""


class Function(keras.Layer):
    """A layer that computes a function; unlike a Lambda it is no code inside of a file."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def model_with(*middle):
    """Pixels, a convolution that leaves (4, 4, 8), some layers, and four logits."""
    keras.utils.set_random_seed(3)
    x = pixels = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 2, strides=2, bias_initializer="normal")(layers.Rescaling(1 / 128)(x))
    for layer in middle:
        x = layer(x)
    logits = layers.Dense(4)
    model = keras.Model(pixels, logits(layers.Flatten()(x)))
    rng = np.random.default_rng(5)
    for weights in model.weights:  # converters leave out weights of 0 and 1
        if weights.path.split("/")[-1] in ("gamma", "beta", "bias"):
            weights.assign(rng.uniform(0.5, 1.5, weights.shape))
    # An int8 file keeps no values of a class that all photos belong to.
    logits.bias.assign_sub(logits_of(model, random_images(16, 8)).mean(axis=0))
    return model


def almost_normalized(x):
    """As in a LayerNormalization, with a mean over all places and a variance within one."""
    mean = tf.reduce_mean(x, axis=(1, 2), keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axis=-1, keepdims=True)
    factor = tf.math.rsqrt(variance + 0.1)
    return x * factor + (-mean * factor)


def attention(x):
    """A block of a vision transformer: (4, 4, 8) -> (16, 8)."""
    x = layers.Reshape((16, 8))(x)
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Add()([x, layers.MultiHeadAttention(num_heads=2, key_dim=4)(y, y)])
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    y = layers.Dense(8)(layers.Dense(16, activation="gelu")(y))
    return layers.Add()([x, y])


def of_itself(equation):
    """The einsum of a tensor of (1, 4, 4, 8) with itself."""
    return Function(lambda x: tf.einsum(equation, x, x / 8))


def operations_of(model):
    converted = convert_to_onnx(TracedModel(model), "logits")
    return converted, Counter(node.op_type for node in converted.graph.node)


def assert_answers_agree(model, path, tolerance):
    images = random_images(4, 8)
    exact = logits_of(model, images)
    difference = np.abs(open_model(path).predict(images) - exact).max()
    assert difference <= tolerance * np.abs(exact).max()


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        ([layers.Activation("gelu")], {"Erf": 1, "Div": 1}),
        ([layers.Dense(8, activation="gelu")], {"Erf": 1, "Div": 1}),
        ([Function(lambda x: keras.ops.gelu(x, approximate=True))], {"Tanh": 1}),
        ([Function(tf.math.erfc)], {"Erf": 1, "Sub": 1}),
        # Nearly a GELU, and nearly a LayerNormalization.
        ([Function(lambda x: (0.5 * x) * tf.math.erfc(-x * 0.6))], {"Erf": 1, "Div": 0}),
        ([Function(lambda x: (0.4 * x) * tf.math.erfc(-x * 0.5**0.5))], {"Erf": 1, "Div": 0}),
        ([Function(almost_normalized)], {"LayerNormalization": 0}),
        ([layers.Activation("celu")], {"Exp": 1, "Sub": 1}),
        ([layers.Conv2D(8, 3, groups=4, padding="same")], {"Conv": 2}),
        ([layers.Conv2D(16, 3, groups=2, strides=2, use_bias=False)], {"Conv": 2}),
        ([layers.Conv2D(8, 2, groups=8, dilation_rate=2)], {"Conv": 2}),
        ([layers.Reshape((16, 8)), layers.Conv1D(12, 3, groups=4)], {"Conv": 2}),
        ([layers.LayerNormalization()], {"LayerNormalization": 1}),
        ([layers.LayerNormalization(scale=False)], {"LayerNormalization": 1}),
        ([layers.LayerNormalization(center=False, epsilon=0.1)], {"LayerNormalization": 1}),
        ([layers.LayerNormalization(center=False, scale=False)], {"LayerNormalization": 1}),
        # Other axes are no LayerNormalization of ONNX, which takes the last ones.
        ([layers.LayerNormalization(axis=1)], {"LayerNormalization": 0}),
        ([layers.LayerNormalization(axis=(1, 2))], {"LayerNormalization": 0}),
        ([layers.GroupNormalization(groups=2)], {"LayerNormalization": 0}),
        ([attention], {"LayerNormalization": 2, "Einsum": 0, "Shape": 0, "Erf": 1}),
        ([layers.EinsumDense("abcd,dce->abe", (4, 6))], {"Einsum": 0}),
        # A loop over the steps of a sequence.
        ([layers.Reshape((16, 8)), layers.LSTM(6)], {"Loop": 1}),
        ([layers.Reshape((16, 8)), layers.Bidirectional(layers.GRU(4))], {"Loop": 2}),
        # One letter for each place of a product: batch, rows, summed and columns.
        ([of_itself("bhwc,bxwc->bhx")], {"MatMul": 1, "Einsum": 0, "Shape": 0}),
        ([of_itself("bhwc,bhxc->bxwh")], {"MatMul": 1, "Einsum": 0, "Shape": 0}),
        ([of_itself("BHWC,BHWC->BW")], {"MatMul": 1, "Einsum": 0, "Shape": 0}),
        # The letter w is summed within one tensor: that is no product of matrices.
        ([of_itself("bhwc,bhxc->bhx")], {"Einsum": 0}),
    ],
)  # fmt: skip
def test_a_float_file_answers_like_its_model(middle, expected, tmp_path):
    model = model_with(*middle)
    converted, operations = operations_of(model)
    assert {name: operations[name] for name in expected} == expected
    assert converted.ir_version == IR_VERSION
    assert {entry.domain: entry.version for entry in converted.opset_import}[""] == OPSET
    path = tmp_path / "file.onnx"
    onnx.save(converted, path)
    # Rounding of float32.
    assert_answers_agree(model, path, 1e-5)


def test_a_grouped_convolution_keeps_its_groups():
    converted, _ = operations_of(model_with(layers.Conv2D(12, 3, groups=4, padding="same")))
    grouped = [node for node in converted.graph.node if node.op_type == "Conv"][1]
    assert {a.name: a.i for a in grouped.attribute}["group"] == 4
    kernel = next(t for t in converted.graph.initializer if t.name == grouped.input[1])
    assert list(kernel.dims) == [12, 2, 3, 3]


@pytest.mark.parametrize(
    ("first", "second", "result", "product"),
    [
        # The two products of an attention: of queries and keys, of shares and values.
        ("btnh", "bsnh", "bnts", MatrixProduct("bn", "t", "h", "s")),
        ("bnts", "bsnh", "btnh", MatrixProduct("bn", "t", "s", "h")),
        ("abc", "cde", "abde", MatrixProduct("", "ab", "c", "de")),
        ("ab", "ab", "a", MatrixProduct("a", "", "b", "")),
        ("aab", "bc", "ac", None),  # a diagonal
        ("ab", "bc", "c", None),  # a is summed within one tensor
        ("ab", "cd", "abcd", None),  # nothing in common
        ("...ab", "bc", "...ac", None),
    ],
)
def test_an_einsum_is_a_product_of_matrices_or_not(first, second, result, product):
    assert MatrixProduct.of(first, second, result) == product


@pytest.mark.parametrize(
    "middle",
    [
        [layers.Conv2D(8, 3, padding="same", activation="gelu")],
        [layers.Conv2D(8, 3, groups=4, padding="same", activation="relu")],
        [layers.LayerNormalization(), layers.Dense(8)],
        [attention],
    ],
    ids=["gelu", "grouped", "normalization", "attention"],
)
def test_an_int8_file_answers_nearly_like_its_model(middle, tmp_path):
    model, images = model_with(*middle), random_images(16, 8)
    path = tmp_path / "file.onnx"
    RECIPES["onnx.int8"](Conversion(model, lambda: iter(images)), path, output="logits")
    # One to three dozen tensors of 8 bits.
    assert_answers_agree(model, path, 0.15)
    converted = onnx.load(path)
    assert converted.ir_version == IR_VERSION
    assert {entry.domain: entry.version for entry in converted.opset_import}[""] == OPSET


def test_a_convolution_called_gelu_is_rounded(tmp_path):
    model, path = model_with(layers.Conv2D(8, 3, name="Gelu")), tmp_path / "file.onnx"
    RECIPES["onnx.int8"](
        Conversion(model, lambda: iter(random_images(4, 8))), path, output="logits"
    )
    graph = onnx.load(path).graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    inputs = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    assert [producers[kernel] for kernel in inputs] == ["DequantizeLinear"] * 2


def test_no_tensor_is_rounded_within_a_gelu_or_for_a_normalization(tmp_path):
    model = model_with(layers.LayerNormalization(), layers.Dense(8, activation="gelu"))
    path, images = tmp_path / "file.onnx", random_images(8, 8)
    facts = RECIPES["onnx.int8"](Conversion(model, lambda: iter(images)), path, output="logits")
    graph = onnx.load(path).graph
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Erf":
            assert producers[node.input[0]].op_type == "Div"
        if node.op_type == "LayerNormalization":
            assert not set(node.input[1:]) & set(producers), "its weights are constants in float"
    assert facts.kept_float == [], "what can be in int8 is in int8"


def test_a_lack_of_memory_is_not_answered_by_copies_that_need_more(monkeypatch):
    calls = []

    def run_out(*_, **__):
        calls.append(os.environ["TF2ONNX_CATCH_ERRORS"])
        raise MemoryError

    monkeypatch.setenv("TF2ONNX_CATCH_ERRORS", "TRUE")  # a user may have set it
    monkeypatch.setattr(tf2onnx.convert, "from_graph_def", run_out)
    with pytest.raises(MemoryError):
        convert_to_onnx(TracedModel(model_with(layers.Dense(8))), "logits")
    assert calls == ["FALSE"]
    assert os.environ["TF2ONNX_CATCH_ERRORS"] == "TRUE"


def test_constants_are_written_once_and_the_file_is_the_same(monkeypatch):
    """tf2onnx writes them after each pass, and protobuf keeps what was written before."""
    traced = TracedModel(model_with(layers.Dense(8)))
    written = Counter()
    update = Node.update_proto

    def counting(node, *args, **kwargs):
        written[node.is_const()] += 1
        update(node, *args, **kwargs)

    monkeypatch.setattr(Node, "update_proto", counting)
    lean = convert_to_onnx(traced, "logits")
    assert written[False] > 100
    assert not written[True]
    monkeypatch.setattr(convert, "_constants_stay", nullcontext)
    usual = convert_to_onnx(traced, "logits")
    assert written[True] > 100
    kinds = [Counter(node.op_type for node in model.graph.node) for model in (lean, usual)]
    assert kinds[0] == kinds[1]
    # tf2onnx numbers the names of a process, and the order of constants follows from them.
    constants = [
        Counter((*tensor.dims, tensor.raw_data) for tensor in model.graph.initializer)
        for model in (lean, usual)
    ]
    assert constants[0] == constants[1]
