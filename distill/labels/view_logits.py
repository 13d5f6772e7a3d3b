"""The teacher's answers about views: computed in batches, and written to a label file."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from distill.data.pipelines import ViewSource
from distill.labels import label_file
from distill.labels.label_file import LabelFormat, write_label_file
from distill.teacher import Teacher, mean_log_probabilities

BATCH_SIZE = 32


def view_logits(
    teachers: list[Teacher],
    view_source: ViewSource,
    indices: np.ndarray,
    views: np.ndarray,
    *,
    batch_size: int,
) -> np.ndarray:
    """Labels of all teachers together for some views, float32 (views, classes + features).

    Args:
        indices: of the examples, (views,).
        views: number of the view of each example, (views,).
    """
    pairs = tf.data.Dataset.from_tensor_slices(
        (np.asarray(indices, "int64"), np.asarray(views, "int64"))
    )
    return np.concatenate(list(_label_batches(teachers, view_source, pairs, batch_size)))


def label_views(
    teachers: list[Teacher],
    view_source: ViewSource,
    path: Path,
    label_format: LabelFormat,
    *,
    rows: range,
) -> None:
    """Write the labels of all views of the examples in `rows` to `path`.

    A killed labelling continues with the labels that the file holds.
    """

    def chunks_from(first: int) -> Iterator[np.ndarray]:
        return stored_chunks(teachers, view_source, label_format, range(first, rows.stop))

    write_label_file(
        path,
        label_format,
        rows=rows,
        num_views=view_source.num_views,
        chunks_from=chunks_from,
    )


def stored_chunks(
    teachers: list[Teacher], view_source: ViewSource, label_format: LabelFormat, rows: range
) -> Iterator[np.ndarray]:
    """The labels of all views of the examples in `rows`, chunk by chunk, as they are stored."""
    num_views = view_source.num_views
    # So no batch holds views of two chunks, and batches are the same in every part of the rows.
    assert label_file.ROWS_PER_CHUNK % BATCH_SIZE == 0
    numbers = tf.data.Dataset.range(rows.start * num_views, rows.stop * num_views)
    pairs = numbers.map(lambda number: (number // num_views, number % num_views))
    batches = _label_batches(teachers, view_source, pairs, BATCH_SIZE)
    batches_per_chunk = label_file.ROWS_PER_CHUNK * num_views // BATCH_SIZE
    while chunk := list(itertools.islice(batches, batches_per_chunk)):
        yield label_format.encode(np.concatenate(chunk))


def _label_batches(
    teachers: list[Teacher], view_source: ViewSource, pairs: tf.data.Dataset, batch_size: int
) -> Iterator[np.ndarray]:
    """Labels of (index, view) pairs in order. Every teacher gets a view at its own image size."""

    def image_batches(teacher: Teacher) -> tf.data.Dataset:
        images = view_source.images(pairs, teacher.image_size).map(lambda view: view.image)
        return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    for batch in zip(*map(image_batches, teachers), strict=True):
        yield mean_log_probabilities(
            [
                teacher.logits(images.numpy())
                for teacher, images in zip(teachers, batch, strict=True)
            ]
        )
