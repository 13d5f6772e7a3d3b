"""Reads what is inside a .tflite file, for tests."""

from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

FLOAT_TYPES = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)


def flatbuffer(path: Path) -> Any:
    """The file as the schema's ModelT."""
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def float_tensors(path: Path) -> set[int]:
    """Indices of the float tensors that the operations of a file read or write, with weights."""
    graph = flatbuffer(path).subgraphs[0]
    return {
        int(index)
        for operator in graph.operators
        for index in (*operator.inputs, *operator.outputs)
        if index >= 0 and graph.tensors[index].type in FLOAT_TYPES
    }
