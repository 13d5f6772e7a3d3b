"""Arrays from PyTorch files (.pth of both formats, .safetensors), without running a pickle."""

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

from configs.artifacts import ending
from configs.errors import UserError
from distill.backbones.weights.bounded import Within
from distill.backbones.weights.safetensors_file import read_safetensors, storage_dtype, widened

MAX_PICKLE_BYTES = 2**26
"""A pickle of names and shapes takes kilobytes. More is no file of weights."""
NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net")
"""Where a checkpoint of a training keeps the weights of its network."""
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""The storages of PyTorch, in the names of safetensors."""


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


class _PassParameter:
    __slots__ = ()

    def __call__(self, tensor: Any, *unused: object) -> _Tensor:
        """A parameter is its tensor."""
        if not isinstance(tensor, _Tensor):
            raise pickle.UnpicklingError("a parameter holds no tensor")
        return tensor


# The only names that a file may use. The stand-ins have no __dict__, so a pickle cannot call
# anything else, and cannot change them for the next file.
STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _MakeStateDict(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _PassParameter(),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _InertUnpickler(pickle.Unpickler):
    """Builds dicts, tuples, numbers and the stand-ins. Imports and calls nothing else.

    Attributes:
        storages: those that the pickle names, by their keys.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._within = Within(file)
        super().__init__(self._within)
        self.storages: dict[str, _Storage] = {}

    def load(self) -> Any:
        """The content of the pickle that begins here."""
        for operation, number, _ in pickletools.genops(cast(IO[bytes], self._within)):
            # Python makes room for all entries of its memory below this one.
            if operation.name.endswith("PUT") and int(number or 0) > self._within.size:
                raise pickle.UnpicklingError(f"it numbers more parts than it has ({number})")
        self._within.rewind()
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise UserError(
                f"refused: it asks for {module}.{name}, which no file of weights needs. "
                "It may be malicious; get the file again from its publisher."
            )
        return STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, num_elements, *views = pid
        if (
            kind != "storage"
            or dtype not in DTYPES.values()
            or not isinstance(key, str)
            or not _are_counts((num_elements,))
            or any(view is not None for view in views)  # the legacy format has one
        ):
            raise pickle.UnpicklingError(f"unknown storage {pid!r:.80}")
        return self.storages.setdefault(key, _Storage(key, dtype, num_elements))


def read_torch_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pth` file of either format, or of a `.safetensors` file, by name.

    A pickle is not trusted. It may name a few inert stand-ins and nothing else, and every tensor
    must lie inside the bytes of the file.

    Returns:
        Arrays as they are stored; bfloat16 comes as float32.

    Raises:
        UserError: the file is missing, damaged, of another format, or asks for code.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. Expected a PyTorch weights file (.pth, .pt or .safetensors)."
        )
    try:
        if ending(path) == ".safetensors":
            return read_safetensors(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_zip(archive)
        with path.open("rb") as file:
            return _read_legacy(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        NotImplementedError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # all that an unpickler and a ZIP reader may raise on arbitrary bytes
        raise UserError(
            f"{path} is not a PyTorch weights file, or is damaged: {error}\n"
            "Expected what torch.save(model.state_dict(), path) writes, or a .safetensors file. "
            "Get the file again from its publisher."
        ) from None


def _read_legacy(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Read what PyTorch before 1.6 wrote.

    It is the header, the pickled state dict, a list of keys, and the storages in their order.
    """
    if _unpickle(file) != MAGIC_NUMBER or _unpickle(file) != PROTOCOL_VERSION:
        raise ValueError("it has another header")
    if _unpickle(file)["little_endian"] is not True:
        raise ValueError("it was written on a big-endian machine")
    unpickler = _InertUnpickler(file)
    tensors = _tensors_of(unpickler.load())
    data = {}
    for key in _unpickle(file):
        data[key] = _read_storage(file, unpickler.storages[key])
    return {name: _view(data[tensor.storage.key], tensor) for name, tensor in tensors.items()}


def _read_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Read what PyTorch since 1.6 writes: a pickled state dict, and one file for each storage."""
    (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and (
        _read_member(archive, f"{folder}byteorder", 16) != b"little"
    ):
        raise ValueError("it was written on a big-endian machine")
    tensors = _tensors_of(_unpickle(io.BytesIO(_read_member(archive, pickled, MAX_PICKLE_BYTES))))
    data = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storage.key not in data:
            num_bytes = storage.num_elements * np.dtype(storage_dtype(storage.dtype)).itemsize
            content = _read_member(archive, f"{folder}data/{storage.key}", num_bytes)
            if len(content) != num_bytes:
                raise ValueError(
                    f"storage {storage.key} should hold {storage.num_elements} numbers"
                )
            data[storage.key] = np.frombuffer(content, storage_dtype(storage.dtype))
    return {name: _view(data[tensor.storage.key], tensor) for name, tensor in tensors.items()}


def _read_member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """The bytes of a member that may not be larger than it should be, however it is packed."""
    if archive.getinfo(name).file_size > max_bytes:
        raise ValueError(f"its member {name} is too large")
    with archive.open(name) as member:
        return member.read(max_bytes)


def _tensors_of(content: Any) -> Mapping[str, _Tensor]:
    """The named tensors of a state dict, or of the state dict in a checkpoint."""
    if isinstance(content, dict):
        nested = (content[name] for name in NESTED if isinstance(content.get(name), dict))
        content = next(nested, content)
    if not isinstance(content, dict) or not content:
        raise ValueError("it holds something other than named tensors")
    if not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in content.items()
    ):
        raise ValueError("it holds something other than named tensors")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _view(numbers: np.ndarray, tensor: _Tensor) -> np.ndarray:
    # _RebuildTensor has checked the strides. Kernels lie transposed in their storages.
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    view = as_strided(numbers[tensor.offset :], tensor.shape, strides).copy()
    return widened(view, tensor.storage.dtype)


def _unpickle(file: IO[bytes]) -> Any:
    return _InertUnpickler(file).load()


def _read_storage(file: IO[bytes], storage: _Storage) -> np.ndarray:
    num_elements = int.from_bytes(file.read(8), "little")
    num_bytes = num_elements * np.dtype(storage_dtype(storage.dtype)).itemsize
    left = os.fstat(file.fileno()).st_size - file.tell()
    if num_elements != storage.num_elements or num_bytes > left:
        raise ValueError(f"storage {storage.key} should hold {storage.num_elements} numbers")
    return np.frombuffer(file.read(num_bytes), storage_dtype(storage.dtype))


def _are_counts(values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)
