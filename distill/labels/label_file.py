"""The file of soft labels: a `.npy` array, written in chunks and read at random positions."""

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.artifacts import errors_name
from configs.errors import UserError, failure_of, is_of_the_machine
from configs.progress import track
from distill.data.pipelines import LabelReader

MAX_FOR_STATISTICS = 8192
ROWS_PER_CHUNK = 128
"""Examples that are labelled and written together. A killed labelling repeats one chunk at most."""


@dataclass(frozen=True)
class LabelFormat:
    """How the answers of a teacher about one view are stored: its logits, then its features.

    Attributes:
        num_features: how many features, as float16, follow the logits.
        top_k: None stores all logits, as float16. A number stores that many of the largest
            logits, their classes, and the log-sum-exp of all others.
    """

    num_classes: int
    top_k: int | None = None
    num_features: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the entries of the file's array."""
        features = [("features", "<f2", (self.num_features,))] if self.num_features else []
        if self.top_k is None:
            logits = ("logits", "<f2", (self.num_classes,))
            return np.dtype([logits, *features] if features else "<f2")
        index = "<u2" if self.num_classes <= 2**16 else "<u4"
        shape = (self.top_k,)
        # The log-sum-exp of the others, not of all: to subtract two large sums would give noise.
        top = [("logits", "<f2", shape), ("classes", index, shape), ("others", "<f4")]
        return np.dtype([*top, *features])

    @property
    def view_bytes(self) -> int:
        """The bytes of one view."""
        return int(self.dtype.itemsize * math.prod(self.shape(1, 1)))

    def shape(self, num_rows: int, num_views: int) -> tuple[int, ...]:
        """The shape of the file's array."""
        last = (self.num_classes,) if self.dtype.names is None else ()
        return (num_rows, num_views, *last)

    def fits(self, stored: np.ndarray) -> bool:
        """Whether an array of a file holds these labels. Features may follow that nobody reads."""
        own = replace(self, num_features=self.num_features or _num_features(stored))
        return (
            stored.ndim >= 2
            and stored.dtype == own.dtype
            and stored.shape == own.shape(*stored.shape[:2])
        )

    def encode(self, answers: np.ndarray) -> np.ndarray:
        """The stored form of logits and features, float32 (views, classes + features)."""
        if self.dtype.names is None:
            return answers.astype("<f2")
        logits, features = np.split(answers, [self.num_classes], axis=1)
        stored = np.empty(len(logits), self.dtype)
        if self.num_features:
            stored["features"] = features
        if self.top_k is None:
            stored["logits"] = logits
            return stored
        order = np.argpartition(-logits, self.top_k - 1, axis=1)
        top, others = order[:, : self.top_k], order[:, self.top_k :]
        stored["classes"] = top
        stored["logits"] = np.take_along_axis(logits, top, axis=1)
        other_logits = np.take_along_axis(logits, others, axis=1).astype("float64")
        largest = other_logits.max(axis=1)
        stored["others"] = largest + np.log(np.exp(other_logits - largest[:, None]).sum(axis=1))
        return stored

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Logits and features of their stored form, float32 (views, classes + features)."""
        logits = self._logits(stored)
        if not self.num_features:
            return logits
        return np.concatenate([logits, stored["features"].astype("float32")], axis=1)

    def _logits(self, stored: np.ndarray) -> np.ndarray:
        """The logits of their stored form, float32 (views, classes).

        With `top_k`, the stored classes keep their probabilities at temperature 1. All other
        classes share the remaining probability evenly.
        """
        if self.top_k is None:
            return (stored if stored.dtype.names is None else stored["logits"]).astype("float32")
        even = stored["others"] - np.log(np.float32(self.num_classes - self.top_k))
        logits = np.repeat(even[:, None], self.num_classes, axis=1)
        np.put_along_axis(
            logits, stored["classes"].astype("int64"), stored["logits"].astype("float32"), axis=1
        )
        return logits


def write_label_file(
    path: Path,
    label_format: LabelFormat,
    *,
    rows: range,
    num_views: int,
    chunks_from: Callable[[int], Iterator[np.ndarray]],
    noun: str = "soft labels",
) -> None:
    """Write the labels of the examples in `rows`, chunk by chunk.

    A killed labelling continues at the first chunk that is not whole. Chunks begin at multiples of
    their size, so the labels of an example do not depend on where a file begins.

    Args:
        path: the file that grows; it may hold some labels already.
        rows: indices of the examples; the first is a multiple of ROWS_PER_CHUNK.
        chunks_from: returns all chunks from the one that begins with this example, as `encode`
            stores them, (examples * views, ...). Several chunks may come as one array.
        noun: what progress calls them.
    """
    assert rows.start % ROWS_PER_CHUNK == 0, rows
    header = label_header(label_format, len(rows), num_views)
    row_bytes = label_format.view_bytes * num_views
    # The file is not mapped: its pages would count as memory of this process.
    with open(path, "ab+") as file, track(noun, len(rows) * num_views) as advance:
        size = file.seek(0, os.SEEK_END)
        num_chunks = max(size - len(header), 0) // (row_bytes * ROWS_PER_CHUNK)
        done = min(num_chunks * ROWS_PER_CHUNK, len(rows))
        file.truncate(len(header) + done * row_bytes if done else 0)
        if not done:
            file.write(header)
        chunks = chunks_from(rows.start + done)
        while done < len(rows):
            stored = next(chunks)
            assert stored.dtype == label_format.dtype, stored.dtype
            with errors_name(path):
                file.write(stored.tobytes())
                file.flush()
                os.fsync(file.fileno())
            done += len(stored) // num_views
            advance(done * num_views)


def label_header(label_format: LabelFormat, num_rows: int, num_views: int) -> bytes:
    """The header of a `.npy` file of these labels."""
    buffer = io.BytesIO()
    content = {
        "descr": np.lib.format.dtype_to_descr(label_format.dtype),
        "fortran_order": False,
        "shape": label_format.shape(num_rows, num_views),
    }
    np.lib.format.write_array_header_1_0(buffer, content)
    return buffer.getvalue()


def shard_rows(num_rows: int, shard: int, num_shards: int) -> range:
    """The examples of shard 1 .. num_shards. Shards hold whole chunks, as evenly as possible."""
    num_chunks = -(-num_rows // ROWS_PER_CHUNK)
    first_chunk, end_chunk = (bound * num_chunks // num_shards for bound in (shard - 1, shard))
    return range(first_chunk * ROWS_PER_CHUNK, min(end_chunk * ROWS_PER_CHUNK, num_rows))


def label_reader(path: Path, label_format: LabelFormat) -> LabelReader:
    """A function that reads logits and features from a label file, mapped from disk.

    Args:
        label_format: of the file; with `num_features` 0, the features of a file are left out.
    """
    stored = _mapped(path)
    if not label_format.fits(stored):
        raise _damaged(path, f"it holds {stored.dtype} {stored.shape}")

    def read(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
        try:
            return label_format.decode(stored[indices, views])
        except IndexError as error:
            raise _damaged(path, str(error)) from None

    return read


def _mapped(path: Path) -> np.ndarray:
    """The array of a label file, mapped from disk. A pickle in it is never loaded.

    Raises:
        UserError: it is damaged.
    """
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy parses the header as Python text
        if is_of_the_machine(error):
            raise
        raise _damaged(path, failure_of(error)) from None


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"the soft labels {path} are damaged: {reason}. Make them again:\n"
        "  distill label TARGET --force label"
    )


def feature_statistics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the features of a label file, each float32 (features,).

    A feature that hardly varies gets a hundredth of the mean deviation: it is no measure of
    anything.
    """
    stored = _mapped(path)
    # One view of each of at most MAX_FOR_STATISTICS examples, so the memory stays the same.
    rows = np.unique(np.linspace(0, len(stored) - 1, MAX_FOR_STATISTICS).astype("int64"))
    features = stored[rows, rows % stored.shape[1]]["features"].astype("float32")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    return mean, np.maximum(deviation, max(0.01 * float(deviation.mean()), 1e-6))


def standardized_reader(
    reader: LabelReader, mean: np.ndarray, deviation: np.ndarray
) -> LabelReader:
    """`reader` with standardized features; they are the last columns of what it reads."""

    def read(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
        answers = reader(indices, views)
        features = answers[:, -len(mean) :]
        features -= mean
        features /= deviation
        return answers

    return read


def num_stored_features(path: Path) -> int:
    """How many features of each view a label file holds."""
    return _num_features(_mapped(path))


def _num_features(stored: np.ndarray) -> int:
    fields: Mapping[str, Any] = stored.dtype.fields or {}
    shape = fields["features"][0].shape if "features" in fields else ()
    return int(shape[0]) if shape else 0
