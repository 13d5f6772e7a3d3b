"""Soft labels that are made on a cluster: its tasks are whole chunks of the label file."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from configs.errors import UserError
from configs.remote.cluster import Cluster
from configs.remote.parts import even_parts
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource, largest_image, student_views
from distill.features import FeatureKind
from distill.labels.label_file import ROWS_PER_CHUNK, LabelFormat, write_label_file
from distill.labels.view_logits import stored_chunks
from distill.teacher import Teacher, load_teachers

MAX_CHUNKS = 8
MAX_TASK_BYTES = 2**24
"""A task labels no more than this many chunks, and returns no more bytes."""


def label_on(
    cluster: Cluster,
    run: RunDir,
    experiment: Experiment,
    path: Path,
    label_format: LabelFormat,
    *,
    rows: range,
    features: FeatureKind | None,
) -> None:
    """`label_views` on the workers of a cluster: the same file, written by this process alone.

    A labelling that is killed continues with the labels that the file holds, here or on a cluster.

    Args:
        features: of the teacher, which the file holds besides the logits.
    """
    num_views = experiment.soft_labels.num_views
    labeller = ChunkLabeller(RunDir(run.path.absolute()), experiment, label_format, features)
    chunk_bytes = ROWS_PER_CHUNK * num_views * label_format.view_bytes

    def chunks_from(first: int) -> Iterator[np.ndarray]:
        parts = even_parts(
            range(first, rows.stop),
            unit=ROWS_PER_CHUNK,
            num_workers=cluster.num_workers,
            max_units=min(MAX_CHUNKS, MAX_TASK_BYTES // chunk_bytes),
        )
        return cluster.map(labeller, parts)

    write_label_file(path, label_format, rows=rows, num_views=num_views, chunks_from=chunks_from)


@dataclass(frozen=True)
class ChunkLabeller:
    """The task: labels examples. A worker keeps its teachers and its list of photos.

    Attributes:
        run: with an absolute path, which is the same on all machines.
    """

    run: RunDir
    experiment: Experiment
    label_format: LabelFormat
    features: FeatureKind | None

    def __call__(self, rows: range) -> np.ndarray:
        """The labels of whole chunks, as they are stored, (examples * views, ...)."""
        # A task reads a photo for all its views together, and later tasks read other photos.
        with PhotoStore(largest_image(self.experiment)) as photos:
            source = replace(self._source, photos=photos)
            chunks = stored_chunks(self._teachers, source, self.label_format, rows)
            return np.concatenate(list(chunks))

    @cached_property
    def _source(self) -> ViewSource:
        if not self.run.photos_manifest.exists():
            raise UserError(
                f"a worker does not see {self.run}. Name a run directory in a folder that all "
                "machines share, at the same path: --run DIR"
            )
        return student_views(self.run, self.experiment, PhotoStore(0))

    @cached_property
    def _teachers(self) -> list[Teacher]:
        return load_teachers(self.run, self.experiment, self.features)
