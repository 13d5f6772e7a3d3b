"""Arrays whose rows the tasks of a cluster make, part by part."""

from collections.abc import Callable, Iterator
from itertools import compress

import numpy as np

from configs.artifacts import whole_file
from configs.progress import track
from configs.remote.cluster import Cluster
from configs.resume import Workspace

TASKS_OF_A_WORKER = 8
"""Each worker does at least so many tasks, so that all end at about the same time."""

ROWS_OF_A_PART = 256
"""Rows of a part that is kept: a fixed number, so that a killed command finds its parts again."""


SplitTask = Callable[[tuple[str, range]], np.ndarray]
"""Returns the array of some rows of a split, in their order."""


def even_parts(rows: range, *, unit: int, num_workers: int, max_units: int) -> Iterator[range]:
    """`rows` in parts of whole units, as large as leaves every worker enough of them.

    Args:
        unit: rows that stay together; only the last may be fewer.
        max_units: of a part.
    """
    even = len(rows) // (unit * num_workers * TASKS_OF_A_WORKER)
    size = unit * max(min(even, max_units), 1)
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))


def kept_rows(
    cluster: Cluster,
    workspace: Workspace,
    task: SplitTask,
    *,
    split: str,
    num_rows: int,
    name: str,
) -> np.ndarray:
    """What a task answers for all rows of a split, (num_rows, ...).

    Parts that were made before are kept in the workspace.

    Args:
        name: of what answers, for progress.
    """
    starts = range(0, num_rows, ROWS_OF_A_PART)
    parts = [(split, range(start, min(start + ROWS_OF_A_PART, num_rows))) for start in starts]
    paths = [workspace.file(f"{split}-{start}.npy") for start in starts]
    is_missing = [not path.exists() for path in paths]
    answers = cluster.map(task, compress(parts, is_missing))
    with track(f"{name}: {split}", num_rows) as advance:
        for path, (_, rows) in compress(zip(paths, parts, strict=True), is_missing):
            with whole_file(path) as unfinished:
                np.save(unfinished, next(answers))
            advance(rows.stop)
    return np.concatenate([np.load(path) for path in paths])
