"""What is inside of a .tflite file."""

from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)


def flatbuffer(path: Path) -> Any:
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def float_tensors(path: Path) -> set[int]:
    """Indices of the floats that any operation of a file reads or writes, its weights included."""
    graph = flatbuffer(path).subgraphs[0]
    return {
        int(index)
        for operator in graph.operators
        for index in (*operator.inputs, *operator.outputs)
        if index >= 0 and graph.tensors[index].type in FLOATS
    }
