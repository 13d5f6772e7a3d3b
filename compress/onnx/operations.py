"""Operations that tf2onnx lacks, or writes in a form that runtimes are slow or inexact with.

tf2onnx calls the functions of `HANDLERS` for one operation, and those of `REWRITERS` for the whole
graph, while all of it still is in the operations of TensorFlow.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tf2onnx.graph_matcher import GraphMatcher, MatchResult, OpTypePattern

GELU = "/Gelu/"
"""The scope that TensorFlow gives the operations of a GELU: a part of their names."""


def convert_erfc(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """Erfc(x) is 1 - Erf(x); ONNX has Erf only."""
    _difference_to_one(graph, node, name, "Erf", one_first=True)


def convert_expm1(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """Expm1(x) is Exp(x) - 1: the negative side of a CELU."""
    _difference_to_one(graph, node, name, "Exp", one_first=False)


def _difference_to_one(graph: Any, node: Any, name: str, kind: str, *, one_first: bool) -> None:
    output = node.output[0]
    facts = {"shapes": [graph.get_shape(output)], "dtypes": [graph.get_dtype(output)]}
    graph.remove_node(name)
    one = graph.make_const(f"{name}_one", np.ones((), "float32"))
    other = graph.make_node(kind, node.input, name=f"{name}_{kind.lower()}", **facts)
    operands = [one.output[0], other.output[0]] if one_first else [other.output[0], one.output[0]]
    graph.make_node("Sub", operands, outputs=[output], name=name, **facts)


class MatrixProduct(NamedTuple):
    """An einsum of two tensors as a product of matrices, each field the letters of some axes.

    Attributes:
        batch: axes of both tensors and of the result.
        rows: axes of the first tensor and of the result.
        summed: axes of both tensors that the result does not have.
        columns: axes of the second tensor and of the result.
    """

    batch: str
    rows: str
    summed: str
    columns: str

    @classmethod
    def of(cls, first: str, second: str, result: str) -> "MatrixProduct | None":
        """None for an einsum of another kind: with a diagonal, or a sum within one tensor."""
        both = set(first) & set(second)
        is_one = (
            all(len(set(axes)) == len(axes) for axes in (first, second, result))
            and set(first) ^ set(second) <= set(result) <= set(first) | set(second)
            and both
        )
        if not is_one or not (first + second + result).isalpha():
            return None
        return cls(
            batch="".join(axis for axis in result if axis in both),
            rows="".join(axis for axis in first if axis not in both),
            summed="".join(axis for axis in first if axis in both and axis not in result),
            columns="".join(axis for axis in second if axis not in both),
        )


def convert_einsum(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """The MatMul of an Einsum, as in attention; other kinds stay an Einsum.

    tf2onnx would compute the shapes of this one anew in every execution, and onnxruntime's
    quantizer refuses tensors whose shapes it does not know.
    """
    del node.attr["N"]
    operands, _, result = node.get_attr_value("equation").decode().partition("->")
    first, _, second = operands.partition(",")
    product = MatrixProduct.of(first, second, result)
    lengths = [size for tensor in node.input for size in graph.get_shape(tensor) or [-1]]
    if product is None or -1 in lengths:
        return
    sizes = dict(zip(first + second, lengths, strict=True))
    output, dtype = node.output[0], graph.get_dtype(node.output[0])
    graph.remove_node(name)

    def add(kind: str, inputs: list[str], axes: Sequence[str], **options: Any) -> str:
        """Add a node whose result has these axes; several letters are one axis."""
        shape = [int(np.prod([sizes[letter] for letter in axis])) for axis in axes]
        if kind == "Reshape":
            constant = graph.make_const(f"{name}_{'_'.join(axes)}", np.array(shape, "int64"))
            inputs = [*inputs, constant.output[0]]
        made = graph.make_node(kind, inputs, shapes=[shape], dtypes=[dtype], **options)
        return str(made.output[0])

    def matrices(tensor: str, axes: str, high: str, wide: str) -> str:
        order = product.batch + high + wide
        attr = {"perm": [axes.index(axis) for axis in order]}
        tensor = add("Transpose", [tensor], order, attr=attr)
        return add("Reshape", [tensor], [*product.batch, high, wide])

    left = matrices(node.input[0], first, product.rows, product.summed)
    right = matrices(node.input[1], second, product.summed, product.columns)
    axes = [*product.batch, product.rows, product.columns]
    matmul = add("MatMul", [left, right], axes, name=f"{name}_matmul")
    order = "".join(axes)
    split = add("Reshape", [matmul], order)
    attr = {"perm": [order.index(axis) for axis in result]}
    add("Transpose", [split], result, attr=attr, outputs=[output], name=name)


HANDLERS: dict[str, tuple[Any, list[Any]]] = {
    "Erfc": (convert_erfc, []),
    "Expm1": (convert_expm1, []),
    "Einsum": (convert_einsum, []),
}


def rewrite_layer_normalization(graph: Any, operations: Sequence[Any]) -> Sequence[Any]:
    """The operations of Keras' LayerNormalization become the one that ONNX has.

    An int8 file would round between a dozen operations. Runtimes compute this one in floats.
    """
    for has_scale in (True, False):
        for has_offset in (True, False):
            matcher = GraphMatcher(_normalization(has_scale, has_offset), allow_reorder=True)
            for match in list(matcher.match_ops(operations)):
                _replace_normalization(graph, match)
            operations = list(graph.get_nodes())
    return operations


def _normalization(has_scale: bool, has_offset: bool) -> OpTypePattern:
    """x * factor + (offset - mean * factor), where factor is scale / deviation.

    Converters leave out a scale of 1 and an offset of 0.
    """
    squares = OpTypePattern("SquaredDifference", name="squares")
    variance = OpTypePattern("Mean", inputs=[squares, OpTypePattern("Const", name="axes")])
    biased = OpTypePattern("AddV2", inputs=[variance, OpTypePattern("Const", name="epsilon")])
    factor = OpTypePattern("Rsqrt", inputs=[biased])
    if has_scale:
        factor = OpTypePattern("Mul", inputs=[factor, OpTypePattern("Const|Reshape", name="scale")])
    mean = OpTypePattern("Mean", name="mean", inputs=["*", "Const"])
    rest = OpTypePattern("Mul", name="shift", inputs=[OpTypePattern("Neg", inputs=[mean]), "*"])
    if has_offset:
        rest = OpTypePattern("AddV2", inputs=[rest, OpTypePattern("Const|Reshape", name="offset")])
    product = OpTypePattern("Mul", name="product", inputs=["*", factor])
    return OpTypePattern("AddV2", name="result", inputs=[product, rest])


def _replace_normalization(graph: Any, match: MatchResult) -> None:
    """Put a LayerNormalization in the place of a match, if it is one over the last axis."""
    result, source = match.get_op("result"), match.get_op("mean").input[0]
    shape, dtype = graph.get_shape(result.output[0]), graph.get_dtype(result.output[0])
    epsilon = np.ravel(match.get_op("epsilon").get_tensor_value())
    if not shape or epsilon.size != 1 or not _is_of_last_axis(match, len(shape)):
        return
    weights = []
    for name, default in (("scale", 1.0), ("offset", 0.0)):
        node = match.get_op(name, default=None)
        values = np.full(shape[-1], default) if node is None else _constant(node)
        if values is None or values.size != shape[-1]:
            return
        constant = graph.make_const(f"{result.name}_{name}", values.ravel().astype("float32"))
        weights.append(constant.output[0])
    output = result.output[0]
    graph.remove_node(result.name)
    graph.make_node(
        "LayerNormalization",
        [source, *weights],
        attr={"axis": -1, "epsilon": float(epsilon[0])},
        outputs=[output],
        name=result.name,
        shapes=[shape],
        dtypes=[dtype],
    )


def _is_of_last_axis(match: MatchResult, rank: int) -> bool:
    """Whether mean, variance and product of a match are of one tensor, over its last axis."""
    mean, squares = match.get_op("mean"), match.get_op("squares")
    product, shift = match.get_op("product"), match.get_op("shift")
    means = {mean.output[0], *(n.output[0] for n in squares.inputs if n.input == mean.output)}
    axes = [np.ravel(node.get_tensor_value()) for node in (match.get_op("axes"), mean.inputs[1])]
    return (
        mean.input[0] in product.input
        and mean.input[0] in squares.input
        and not means.isdisjoint(squares.input)
        and not set(product.input).isdisjoint(shift.input)  # the factor
        and all(axis.size == 1 and axis[0] % rank == rank - 1 for axis in axes)
    )


def _constant(node: Any) -> np.ndarray | None:
    """The values of a constant, or of a constant in another shape; None for anything else."""
    source = node.inputs[0] if node.type == "Reshape" else node
    return np.asarray(source.get_tensor_value(as_list=False)) if source.is_const() else None


def rewrite_gelu(graph: Any, operations: Sequence[Any]) -> Sequence[Any]:
    """The exact GELU in the form that onnxruntime executes as one operation.

    TensorFlow computes 0.5 x * erfc(-x / sqrt(2)), this is x * (1 + erf(x / sqrt(2))) * 0.5.
    """
    half = OpTypePattern("Mul", name="half", inputs=[OpTypePattern("Const", name="factor"), "*"])
    negative = OpTypePattern("Neg", name="negative")
    ratio = OpTypePattern("Mul", inputs=[negative, OpTypePattern("Const", name="ratio")])
    pattern = OpTypePattern(
        "Mul", name="result", inputs=[half, OpTypePattern("Erfc", inputs=[ratio])]
    )
    for match in list(GraphMatcher(pattern, allow_reorder=True).match_ops(operations)):
        source = match.get_op("negative").input[0]
        constants = [_constant(match.get_op(name)) for name in ("factor", "ratio")]
        is_exact = all(
            values is not None and np.allclose(values, expected)
            for values, expected in zip(constants, (0.5, np.sqrt(0.5)), strict=True)
        )
        if is_exact and source in match.get_op("half").input:
            _replace_gelu(graph, match.get_op("result"), source)
    return list(graph.get_nodes())


def _replace_gelu(graph: Any, result: Any, source: str) -> None:
    name, output = result.name, result.output[0]
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    graph.remove_node(name)

    def add(kind: str, *inputs: str, **options: Any) -> str:
        made = graph.make_node(kind, list(inputs), shapes=[shape], dtypes=[dtype], **options)
        return str(made.output[0])

    def constant(value: float, what: str) -> str:
        return str(graph.make_const(f"{name}_{what}", np.array(value, "float32")).output[0])

    ratio = add("Div", source, constant(np.sqrt(2), "root"), name=f"{name}_ratio")
    erf = add("Erf", ratio, name=f"{name}_erf")
    above_zero = add("Add", erf, constant(1, "one"), name=f"{name}_above_zero")
    double = add("Mul", source, above_zero, name=f"{name}_double")
    add("Mul", double, constant(0.5, "half"), name=name, outputs=[output])


REWRITERS = [rewrite_layer_normalization, rewrite_gelu]
