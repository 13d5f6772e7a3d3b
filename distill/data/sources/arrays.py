"""A NumPy file as a source: an .npz with photos x and labels y, read photo by photo."""

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from configs.errors import UserError, failure_of, is_of_the_disk
from distill.data.sources.listing import SOURCES, Listing, Place
from distill.data.sources.unpacked import RawPhoto, state_of, unpacked_photos
from eval.metadata import class_name

EXPECTED = (
    "Expected photos x (photos, height, width, 3) and labels y (photos,), as "
    "np.savez('photos.npz', x=x, y=y) writes them. Splits are x_train, y_train, x_val, y_val, "
    "x_test and y_test; classes are the names of the labels 0, 1, ..."
)
NAMES = (("x", "y"), ("images", "labels"), ("image", "label"))
SPLITS = {"": None, "train": None, "val": "validation", "valid": "validation",
          "validation": "validation", "test": "test"}  # fmt: skip
CLASS_ARRAYS = ("classes", "class_names", "label_names", "names")


@dataclass(frozen=True)
class Stack:
    """The photos of one array.

    Attributes:
        shape: (photos, height, width, channels).
        channels_first: whether they lie as (photos, channels, height, width).
    """

    name: str
    split: str | None
    labels: np.ndarray
    shape: tuple[int, int, int, int]
    channels_first: bool
    dtype: np.dtype


@SOURCES.add(name="numpy", endings=(".npz",))
def numpy_file(place: Place) -> Listing:
    """An .npz file of arrays. A pickle in it is never loaded."""
    path = place.file("a NumPy file (.npz)")
    with _opened(path) as arrays:
        stacks, classes = _stacks(path, arrays)
    root, files = unpacked_photos(
        place.run_data,
        {"numpy": state_of(path)},
        partial(_photos, path, stacks, classes),
        sum(stack.shape[0] for stack in stacks),
    )
    return Listing(root, files)


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, zipfile.ZipInfo]]:
    """The arrays of a file by their names in small letters.

    Raises:
        UserError: in the block, too: it is no such file, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            yield {info.filename.removesuffix(".npy").lower(): info for info in file.infolist()}
    except (UserError, MemoryError):
        raise
    except OSError as error:
        if is_of_the_disk(error):
            raise
        raise UserError(f"{path} cannot be read: {failure_of(error)}. {EXPECTED}") from None
    except Exception as error:  # zipfile and numpy raise errors of many kinds
        raise UserError(f"{path} cannot be read: {failure_of(error)}. {EXPECTED}") from None


def _stacks(
    path: Path, arrays: dict[str, zipfile.ZipInfo]
) -> tuple[list[Stack], dict[int, str] | None]:
    stacks = []
    for key, split in SPLITS.items():
        for x, y in NAMES:
            for pattern in ("{0}_{1}", "{1}_{0}") if key else ("{0}",):
                names = pattern.format(x, key), pattern.format(y, key)
                if names[0] in arrays and names[1] in arrays:
                    labels = _labels(path, names[1], _whole(path, arrays[names[1]]))
                    stacks.append(_stack(path, arrays[names[0]], names[0], split, labels))
    if not stacks:
        raise UserError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}. {EXPECTED}")
    names_of_classes = next((arrays[name] for name in CLASS_ARRAYS if name in arrays), None)
    if names_of_classes is None:
        return stacks, None
    class_names = _whole(path, names_of_classes).ravel()
    return stacks, {number: class_name(str(name)) for number, name in enumerate(class_names)}


def _whole(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
    with zipfile.ZipFile(path) as file, file.open(info) as stream:
        _refuse_objects(path, info, stream)
    with zipfile.ZipFile(path) as file, file.open(info) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if array.dtype.kind == "U":  # numpy takes any number for a character
        "".join(array.ravel().tolist()).encode().decode()
    return array


def _refuse_objects(
    path: Path, info: zipfile.ZipInfo, stream: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array; the stream stands at its first element afterwards.

    Raises:
        UserError: it holds Python objects, which only a pickle can store, or it is cut short.
    """
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)  # fmt: skip
    if read is None:
        raise ValueError(f"{info.filename} has format {version}")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise UserError(
            f"{info.filename} in {path} holds Python objects. Reading them would execute code of "
            "the file, so they are not read. Store photos of one size as uint8, and labels as "
            "integers or text: np.savez(file, x=np.stack(photos), y=np.array(labels, str))"
        )
    if info.file_size < math.prod(shape) * max(dtype.itemsize, 1):
        raise ValueError(f"{info.filename} is cut short")
    return shape, fortran, dtype


def _stack(
    path: Path, info: zipfile.ZipInfo, name: str, split: str | None, labels: np.ndarray
) -> Stack:
    with zipfile.ZipFile(path) as file, file.open(info) as stream:
        shape, fortran, dtype = _refuse_objects(path, info, stream)
    four = (*shape, 1) if len(shape) == 3 else shape
    if len(four) != 4 or min(four) == 0 or fortran or dtype.kind not in "uifb":
        order = ", in Fortran's order" if fortran else ""
        raise UserError(f"{name} in {path} is {dtype} {shape}{order}. {EXPECTED}")
    num, height, width, channels = four
    channels_first = channels not in (1, 3, 4)
    if channels_first:
        channels, height, width = height, width, channels
    if channels not in (1, 3, 4):
        raise UserError(f"{name} in {path} is {dtype} {shape}. {EXPECTED}")
    whole = num, height, width, channels
    if len(labels) != whole[0]:
        raise UserError(f"{path} holds {whole[0]} photos in {name} and {len(labels)} labels.")
    return Stack(name, split, labels, whole, channels_first, dtype)


def _labels(path: Path, name: str, labels: np.ndarray) -> np.ndarray:
    """Labels (photos,): integers or text."""
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "uifb":
        is_one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
        if not is_one_hot:
            raise UserError(f"{name} in {path} has several labels for a photo. {EXPECTED}")
        return labels.argmax(axis=1)
    labels = labels.reshape(-1) if labels.ndim == 2 else labels
    if labels.dtype.kind == "f" and (labels == np.round(labels)).all():
        labels = labels.astype("int64")
    if labels.ndim != 1 or labels.dtype.kind not in "uibUS":
        raise UserError(f"{name} in {path} is {labels.dtype} {labels.shape}. {EXPECTED}")
    return labels.astype("int64") if labels.dtype.kind == "b" else labels


def _photos(path: Path, stacks: list[Stack], classes: dict[int, str] | None) -> Iterator[RawPhoto]:
    width = max(len(str(s.labels.max())) if s.labels.dtype.kind in "ui" else 0 for s in stacks)
    with _opened(path) as arrays:
        for stack in stacks:
            info = arrays[stack.name]
            to_bytes = _scale(path, stack, info)
            for number, photo in enumerate(_rows(path, stack, info)):
                label = stack.labels[number]
                text = label.decode() if isinstance(label, bytes) else str(label)
                if stack.labels.dtype.kind in "ui":  # 2 before 10, also in the order of names
                    text = text.zfill(width) if classes is None else classes.get(int(label), text)
                yield RawPhoto(
                    partial(_png, photo, to_bytes),
                    f"{stack.name}[{number}]",
                    class_name(text),
                    stack.split,
                )


def _rows(path: Path, stack: Stack, info: zipfile.ZipInfo) -> Iterator[np.ndarray]:
    """The photos one by one, (height, width, channels), of which few are in memory."""
    num, height, width, channels = stack.shape
    shape = (channels, height, width) if stack.channels_first else (height, width, channels)
    photo_bytes = height * width * channels * stack.dtype.itemsize
    with zipfile.ZipFile(path) as file, file.open(info) as stream:
        _refuse_objects(path, info, stream)
        for _ in range(num):
            content = stream.read(photo_bytes)
            if len(content) < photo_bytes:
                raise ValueError(f"{info.filename} is cut short")
            photo = np.frombuffer(content, stack.dtype).reshape(shape)
            yield np.moveaxis(photo, 0, 2) if stack.channels_first else photo


def _scale(path: Path, stack: Stack, info: zipfile.ZipInfo) -> tuple[float, float]:
    """(factor, offset) that bring the values of an array to 0..255."""
    if stack.dtype == np.uint8:
        return 1.0, 0.0
    low, high = np.inf, -np.inf
    for photo in _rows(path, stack, info):
        low, high = np.minimum(low, photo.min()), np.maximum(high, photo.max())  # keep NaN
    if stack.dtype.kind == "f" and low >= 0 and high <= 1:
        return 255.0, 0.0
    if stack.dtype.kind == "f" and low >= -1 and high <= 1:
        return 127.5, 127.5
    if low >= 0 and high <= 255:
        return (255.0, 0.0) if stack.dtype.kind == "b" else (1.0, 0.0)
    raise UserError(
        f"{stack.name} in {path} holds values from {low:g} to {high:g}. Expected 0..255, or floats "
        "of 0..1 or -1..1. Store the pixels as they were before a model's own preprocessing."
    )


def _png(photo: np.ndarray, to_bytes: tuple[float, float]) -> bytes:
    if photo.dtype != np.uint8:
        factor, offset = to_bytes
        photo = np.round(photo.astype("float64") * factor + offset).clip(0, 255).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(photo[..., 0] if photo.shape[2] == 1 else photo).save(file, "PNG")
    return file.getvalue()
