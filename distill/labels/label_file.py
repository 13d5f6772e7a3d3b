"""The file of soft labels: a `.npy` array, written in chunks and mapped to be read at random."""

import io
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.progress import track
from distill.data.pipelines import LabelReader

ROWS_PER_CHUNK = 128


@dataclass(frozen=True)
class LabelFormat:
    """How the logits of one view are kept.

    Attributes:
        top_k: None keeps all logits, as float16. A number keeps the largest so many, with their
            classes, and the log-sum-exp of all others.
    """

    num_classes: int
    top_k: int | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.top_k is None:
            return np.dtype("<f2")
        index = "<u2" if self.num_classes <= 2**16 else "<u4"
        kept = (self.top_k,)
        # Of the others, not of all: the difference of two large sums would be noise.
        return np.dtype([("logits", "<f2", kept), ("classes", index, kept), ("others", "<f4")])

    def shape(self, num_rows: int, num_views: int) -> tuple[int, ...]:
        """Shape of the file's array."""
        last = (self.num_classes,) if self.top_k is None else ()
        return (num_rows, num_views, *last)

    def encode(self, logits: np.ndarray) -> np.ndarray:
        """float32 (n, classes) -> what is stored of them."""
        if self.top_k is None:
            return logits.astype("<f2")
        stored = np.empty(len(logits), self.dtype)
        order = np.argpartition(-logits, self.top_k - 1, axis=1)
        kept, others = order[:, : self.top_k], order[:, self.top_k :]
        stored["classes"] = kept
        stored["logits"] = np.take_along_axis(logits, kept, axis=1)
        rest = np.take_along_axis(logits, others, axis=1).astype("float64")
        largest = rest.max(axis=1)
        stored["others"] = largest + np.log(np.exp(rest - largest[:, None]).sum(axis=1))
        return stored

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """float32 (n, classes); the classes that were not kept share what is left evenly.

        Probabilities of the kept classes are what they were, at temperature 1.
        """
        if self.top_k is None:
            return stored.astype("float32")
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
    unfinished: Path,
) -> None:
    """Write the labels of some examples, chunk by chunk, in `unfinished` until all are there.

    A killed labelling goes on at the first chunk that is not whole. A chunk begins at a multiple of
    its size, so what a teacher says of an example does not depend on where a file begins.

    Args:
        path: where the finished file goes.
        unfinished: the file that grows, in the workspace of the step.
        rows: indices of the examples; the first is a multiple of ROWS_PER_CHUNK.
        chunks_from: first example -> the logits of it and the following ROWS_PER_CHUNK - 1, float32
            (examples * views, classes), then those of the next as many, and so on.
    """
    assert rows.start % ROWS_PER_CHUNK == 0, rows
    header = _header(label_format, len(rows), num_views)
    row_bytes = label_format.dtype.itemsize * math.prod(label_format.shape(1, num_views))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written, not mapped: the pages of a mapped file would count as this process's memory.
    with open(unfinished, "ab+") as file, track("soft labels", len(rows) * num_views) as advance:
        size = file.seek(0, os.SEEK_END)
        num_chunks = max(size - len(header), 0) // (row_bytes * ROWS_PER_CHUNK)
        done = min(num_chunks * ROWS_PER_CHUNK, len(rows))
        file.truncate(len(header) + done * row_bytes if done else 0)
        if not done:
            file.write(header)
        chunks = chunks_from(rows.start + done)
        while done < len(rows):
            logits = next(chunks)
            file.write(label_format.encode(logits).tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += len(logits) // num_views
            advance(done * num_views)
    unfinished.replace(path)


def _header(label_format: LabelFormat, num_rows: int, num_views: int) -> bytes:
    """How a `.npy` file of these labels begins."""
    buffer = io.BytesIO()
    content = {
        "descr": np.lib.format.dtype_to_descr(label_format.dtype),
        "fortran_order": False,
        "shape": label_format.shape(num_rows, num_views),
    }
    np.lib.format.write_array_header_1_0(buffer, content)
    return buffer.getvalue()


def shard_rows(num_rows: int, shard: int, num_shards: int) -> range:
    """The examples of one shard, 1 .. num_shards: whole chunks, as even as they go."""
    num_chunks = -(-num_rows // ROWS_PER_CHUNK)
    first, last = ((s * num_chunks) // num_shards for s in (shard - 1, shard))
    return range(first * ROWS_PER_CHUNK, min(last * ROWS_PER_CHUNK, num_rows))


def label_reader(path: Path, label_format: LabelFormat) -> LabelReader:
    """Random access to a file of soft labels, mapped from disk."""
    stored = np.load(path, mmap_mode="r")
    return lambda indices, views: label_format.decode(stored[indices, views])
