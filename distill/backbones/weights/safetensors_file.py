"""Arrays from a `.safetensors` file: a JSON header, and numbers behind it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

MAX_HEADER_BYTES = 10**8
"""The limit of the format's own library."""
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
"""The names of the format, and how numpy reads the numbers."""


def storage_dtype(name: str) -> str:
    """How numpy reads numbers of a type of the format."""
    return DTYPES[name]


def widened(array: np.ndarray, name: str) -> np.ndarray:
    """bfloat16, which numpy lacks, as float32: its bits are the upper half of those."""
    if name != "BF16":
        return array
    return (array.astype("<u4") << 16).view("<f4")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Raises:
        ValueError, LookupError, TypeError: the file is damaged.
    """
    content = np.memmap(path, mode="r")
    num_header_bytes = int.from_bytes(content[:8].tobytes(), "little")
    if not 2 <= num_header_bytes <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError("it has no header of safetensors")
    header = json.loads(content[8 : 8 + num_header_bytes].tobytes())
    data = content[8 + num_header_bytes :]
    return {name: _array(name, facts, data) for name, facts in header.items() if name[:2] != "__"}


def _array(name: str, facts: Any, data: np.ndarray) -> np.ndarray:
    dtype, shape, (start, end) = facts["dtype"], tuple(facts["shape"]), facts["data_offsets"]
    if not all(type(value) is int and value >= 0 for value in (*shape, start, end)):
        raise ValueError(f"the array {name} is not described by counts")
    num_bytes = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if end - start != num_bytes or end > len(data):
        raise ValueError(f"the array {name} reaches beyond its numbers")
    return widened(data[start:end].view(DTYPES[dtype]).reshape(shape).copy(), dtype)
