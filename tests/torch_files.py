"""Files of PyTorch, written opcode by opcode, since PyTorch is not installed."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from distill.backbones.weights.torch_file import MAGIC_NUMBER, PROTOCOL_VERSION

NEW_STATE_DICT = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def counts(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    name: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    offset: int = 0,
    num_elements: int = 6,
) -> bytes:
    """Opcodes that set one item of the dict on the stack to a tensor in storage "7"."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("7") + text("cpu")
    storage += number(num_elements) + b"Nt" + b"Q"
    arguments = b"(" + storage + number(offset) + counts(shape) + counts(strides)
    arguments += b"\x89" + NEW_STATE_DICT + b"t"
    return text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R" + b"s"


def write_file(path: Path, body: bytes, numbers: list[float] | None = None) -> Path:
    """A legacy file whose state dict is made by the opcodes `body`."""
    numbers = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] if numbers is None else numbers
    header = [MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}]
    path.write_bytes(
        b"".join(pickle.dumps(part, protocol=2) for part in header)
        + b"\x80\x02"
        + body
        + b"."
        + pickle.dumps(["7"], protocol=2)
        + struct.pack("<q", len(numbers))
        + np.array(numbers, "<f4").tobytes()
    )
    return path


def save_safetensors(path, arrays):
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [start, start + array.nbytes],
        }
        start += array.nbytes
    encoded = json.dumps(header).encode()
    numbers = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + numbers)
    return path


def save_zip(path, arrays, *, body=None, storage_names=None):
    """A file as torch.save writes it since 1.6, opcode by opcode, since PyTorch is not here."""
    pickled = NEW_STATE_DICT
    for key, (name, array) in enumerate(arrays.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(key)) + text("cpu")
        storage += number(array.size) + b"t" + b"Q"
        arguments = b"(" + storage + number(0) + counts(array.shape) + counts(strides)
        arguments += b"\x89" + NEW_STATE_DICT + b"t"
        pickled += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R" + b"s"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + (body or pickled) + b".")
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path
