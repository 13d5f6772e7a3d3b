"""The file of soft labels: a `.npy` memory map, written in chunks and read at random."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.progress import track
from configs.run_dir import write_json

ROWS_PER_CHUNK = 128

Reader = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(indices, views) -> logits, float32 (batch, classes)."""


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
    logits_of: Callable[[range], np.ndarray],
) -> None:
    """Write the labels of some examples, chunk by chunk.

    Written under a temporary name, with how far it is beside it; a killed labelling goes on at
    the first chunk that is missing. A chunk begins at a multiple of its size, so what a teacher
    says of an example does not depend on where a file begins.

    Args:
        rows: indices of the examples; the first is a multiple of ROWS_PER_CHUNK.
        logits_of: examples -> float32 (examples * views, classes).
    """
    assert rows.start % ROWS_PER_CHUNK == 0, rows
    shape = label_format.shape(len(rows), num_views)
    unfinished = path.with_name(f".unfinished-{path.name}")
    progress = unfinished.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = json.loads(progress.read_text())["done"] if progress.exists() else 0
    if done and unfinished.exists():
        labels = np.lib.format.open_memmap(unfinished, mode="r+")
    else:
        done = 0
        progress.unlink(missing_ok=True)  # it told of a file that is gone
        labels = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype=label_format.dtype, shape=shape
        )
        # Room for all of it now: a disk that fills up under a memory map kills the process.
        if hasattr(os, "posix_fallocate"):
            with open(unfinished, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, unfinished.stat().st_size)
    with track("soft labels", len(rows) * num_views) as advance:
        for start in range(done, len(rows), ROWS_PER_CHUNK):
            stop = min(start + ROWS_PER_CHUNK, len(rows))
            chunk = label_format.encode(logits_of(rows[start:stop]))
            labels[start:stop] = chunk.reshape(stop - start, *shape[1:])
            labels.flush()
            write_json(progress, {"done": stop})
            advance(stop * num_views)
    del labels
    progress.unlink(missing_ok=True)
    unfinished.replace(path)


def shard_rows(num_rows: int, shard: int, num_shards: int) -> range:
    """The examples of one shard, 1 .. num_shards: whole chunks, as even as they go."""
    num_chunks = -(-num_rows // ROWS_PER_CHUNK)
    first, last = ((s * num_chunks) // num_shards for s in (shard - 1, shard))
    return range(first * ROWS_PER_CHUNK, min(last * ROWS_PER_CHUNK, num_rows))


def label_reader(path: Path, label_format: LabelFormat) -> Reader:
    """Random access to a file of soft labels, mapped from disk."""
    stored = np.load(path, mmap_mode="r")
    return lambda indices, views: label_format.decode(stored[indices, views])
