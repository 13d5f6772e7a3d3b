"""Soft labels of many examples and classes: file size, memory for writing, rate of random reads.

    python benchmarks/soft_label_store.py --examples 100000 --views 10 --classes 1000 --top-k 10

The logits are synthetic. The code that writes and reads them is that of a run.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from distill.labels.label_file import (
    ROWS_PER_CHUNK,
    LabelFormat,
    label_reader,
    write_label_file,
)

BATCH = 256
NUM_BATCHES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--top-k", type=int, default=10, help="0 keeps all logits")
    options = parser.parse_args()
    label_format = LabelFormat(options.classes, options.top_k or None)
    rng = np.random.default_rng(0)
    process = psutil.Process()
    memory_mib: list[float] = []

    def chunks_from(first: int) -> Iterator[np.ndarray]:
        for start in range(first, options.examples, ROWS_PER_CHUNK):
            memory_mib.append(process.memory_info().rss / 2**20)
            rows = min(ROWS_PER_CHUNK, options.examples - start)
            logits = rng.standard_normal((rows * options.views, options.classes), "float32")
            yield label_format.encode(3 * logits)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.npy"
        start = time.perf_counter()
        write_label_file(
            path,
            label_format,
            rows=range(options.examples),
            num_views=options.views,
            chunks_from=chunks_from,
        )
        seconds_to_write = time.perf_counter() - start
        read = label_reader(path, label_format)
        start = time.perf_counter()
        for _ in range(NUM_BATCHES):
            read(
                rng.integers(options.examples, size=BATCH), rng.integers(options.views, size=BATCH)
            )
        seconds_to_read = time.perf_counter() - start
        quarter = len(memory_mib) // 4
        result = {
            **vars(options),
            "file_mib": round(path.stat().st_size / 2**20, 1),
            "seconds_to_write": round(seconds_to_write, 1),
            "memory_mib_first_quarter": round(max(memory_mib[1:quarter]), 1),
            "memory_mib_last_quarter": round(max(memory_mib[-quarter:]), 1),
            "labels_read_per_second": round(NUM_BATCHES * BATCH / seconds_to_read),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
