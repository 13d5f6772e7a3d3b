"""Teacher logits of views: computed once, then reread.

Logits, never probabilities, never divided by a temperature: another temperature, weight or loss
needs no new labels.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from configs.artifacts import digest, whole_file
from configs.errors import StepFailed, UserError
from configs.resume import Built, Step, Workspace, is_current
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import Examples, student_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import (
    LabelReader,
    ViewSource,
    open_photo_store,
    student_views,
    view_inputs,
)
from distill.labels import label_file
from distill.labels.label_file import (
    ROWS_PER_CHUNK,
    LabelFormat,
    label_reader,
    shard_rows,
    write_label_file,
)
from distill.teacher import (
    Teacher,
    load_teachers,
    mean_log_probabilities,
    teacher_digest,
)

BATCH_SIZE = 32


def soft_labels_step(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Step:
    """Label every view of every training photo with the teacher's logits."""
    path = soft_labels_path(run, experiment)

    def build(workspace: Workspace) -> Built:
        rows = range(len(student_examples(run)))
        return _label(run, experiment, photos, path, rows, workspace)

    return Step("soft labels", path.with_suffix(".json"), _inputs(run, experiment), build)


def soft_labels_path(run: RunDir, experiment: Experiment) -> Path:
    """The file of the soft labels that belong to this config."""
    return run.soft_labels(digest(_inputs(run, experiment)))


def shard_step(
    run: RunDir, experiment: Experiment, photos: PhotoStore, *, shard: int, num_shards: int
) -> Step:
    """Label one of `num_shards` parts of the training photos (1 is the first).

    Raises:
        UserError: when built, if there are too few photos for so many parts.
    """
    inputs = _inputs(run, experiment)
    path = run.soft_labels(f"{digest(inputs)}.{shard}-of-{num_shards}")
    inputs = {**inputs, "shard": shard, "num_shards": num_shards}

    def build(workspace: Workspace) -> Built:
        num_examples = len(student_examples(run))
        rows = shard_rows(num_examples, shard, num_shards)
        if not rows:
            raise UserError(
                f"{num_shards} shards are too many for {num_examples} photos: each takes at least "
                f"{ROWS_PER_CHUNK}. Expected {-(-num_examples // ROWS_PER_CHUNK)} or fewer."
            )
        return _label(run, experiment, photos, path, rows, workspace)

    name = f"soft labels {shard} of {num_shards}"
    return Step(name, path.with_suffix(".json"), inputs, build)


def merge_step(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Step:
    """Make one file of all shards; the result is that of `soft_labels_step`, bit for bit.

    Raises:
        UserError: when built, if a shard is missing, of other settings, or there twice.
    """
    whole = soft_labels_step(run, experiment, photos)

    def build(workspace: Workspace) -> Built:
        examples = student_examples(run)
        path = whole.manifest.with_suffix(".npy")
        shards = _complete_shards(run, experiment, photos, path.stem)
        label_format = _label_format(experiment, examples)
        num_views = experiment.soft_labels.num_views
        with whole_file(path) as unfinished:
            labels = np.lib.format.open_memmap(
                unfinished,
                mode="w+",
                dtype=label_format.dtype,
                shape=label_format.shape(len(examples), num_views),
            )
            for number, shard in enumerate(shards, start=1):
                rows = shard_rows(len(examples), number, len(shards))
                labels[rows.start : rows.stop] = np.load(shard, mmap_mode="r")
            labels.flush()
            del labels
        return [path], {"num_examples": len(examples), "num_views": num_views}

    return Step(whole.name, whole.manifest, whole.inputs, build)


def _complete_shards(
    run: RunDir, experiment: Experiment, photos: PhotoStore, name: str
) -> list[Path]:
    """The files of all shards in their order."""
    pattern = re.compile(re.escape(name) + r"\.(\d+)-of-(\d+)\.npy")
    folder = run.soft_labels(name).parent
    found = [m for path in folder.glob(f"{name}.*.npy") if (m := pattern.fullmatch(path.name))]
    if not found:
        raise UserError(
            f"{folder} holds no shards of these soft labels. Make them, on as many machines as "
            "you like, with distill label TARGET --shard 1/2, --shard 2/2, and copy them there."
        )
    totals = sorted({int(m[2]) for m in found})
    if len(totals) > 1:
        raise UserError(
            f"{folder} holds shards of {' and of '.join(map(str, totals))}, so some photos are "
            "there twice. Delete the ones that are not wanted."
        )
    missing = sorted(set(range(1, totals[0] + 1)) - {int(m[1]) for m in found})
    if missing:
        raise UserError(
            f"{folder} lacks shard {', '.join(map(str, missing))} of {totals[0]}. Make it with "
            f"distill label TARGET --shard {missing[0]}/{totals[0]}."
        )
    for number in range(1, totals[0] + 1):
        step = shard_step(run, experiment, photos, shard=number, num_shards=totals[0])
        if not is_current(step.manifest, step.inputs):
            raise UserError(
                f"shard {number} of {totals[0]} in {folder} is damaged or without its "
                f"{step.manifest.name}. Copy both again, or make it again."
            )
    return [folder / f"{name}.{number}-of-{totals[0]}.npy" for number in range(1, totals[0] + 1)]


def load_soft_labels(run: RunDir, experiment: Experiment) -> LabelReader:
    """The finished labels of a run, mapped from disk."""
    path = soft_labels_path(run, experiment)
    return label_reader(path, _label_format(experiment, student_examples(run)))


def verify_soft_labels(run: RunDir, experiment: Experiment, count: int) -> dict[str, Any]:
    """Compute some random labels again, in batches of another size, and compare.

    Returns:
        num_verified, and max_abs_diff between a stored logit and the one computed now.

    Raises:
        StepFailed: a label is further off than float16 rounds.
    """
    with open_photo_store(run, experiment) as photos:
        source = student_views(run, experiment, photos)
        return _verify(run, experiment, source, count)


def _verify(run: RunDir, experiment: Experiment, source: ViewSource, count: int) -> dict[str, Any]:
    rng = np.random.default_rng()
    indices = rng.integers(len(source.examples), size=count)
    views = rng.integers(source.num_views, size=count)
    teachers = load_teachers(run, experiment)
    live = view_logits(teachers, source, indices, views, batch_size=BATCH_SIZE - 1)
    stored = load_soft_labels(run, experiment)(indices, views)
    label_format = _label_format(experiment, source.examples)
    differences = _differences(label_format, stored, live)
    # A whole step: where float32 sums in another order tip the rounding.
    step = np.spacing(np.abs(live).astype("float16")).astype("float32")
    wrong = (differences > step + 1e-4).any(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise StepFailed(
            f"{int(wrong.sum())} of {count} soft labels are not what the teacher says now: view "
            f"{views[first]} of {source.examples.paths[indices[first]]} is off by "
            f"{float(differences[first].max()):.3g}. Make them again with --force label."
        )
    return {"num_verified": count, "max_abs_diff": float(differences.max())}


def _differences(label_format: LabelFormat, stored: np.ndarray, live: np.ndarray) -> np.ndarray:
    """|stored - live| for each logit; 0 where `top_k` does not keep it, or only just."""
    differences = np.abs(stored - live)
    if label_format.top_k is None:
        return differences
    least = np.sort(live, axis=1)[:, [-label_format.top_k]]
    return np.where(live > least + 0.01 * np.abs(least), differences, 0.0)


def view_logits(
    teachers: list[Teacher],
    source: ViewSource,
    indices: np.ndarray,
    views: np.ndarray,
    *,
    batch_size: int,
) -> np.ndarray:
    """What the teachers say together of some views, float32 (views, classes)."""
    pairs = tf.data.Dataset.from_tensor_slices(
        (np.asarray(indices, "int64"), np.asarray(views, "int64"))
    )
    return np.concatenate(list(_logit_batches(teachers, source, pairs, batch_size)))


def _logit_batches(
    teachers: list[Teacher], source: ViewSource, pairs: tf.data.Dataset, batch_size: int
) -> Iterator[np.ndarray]:
    """Logits of (index, view) pairs in their order; each teacher sees a view at its own size."""

    def seen_by(teacher: Teacher) -> tf.data.Dataset:
        images = source.images(pairs, teacher.image_size).map(lambda view: view.image)
        return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    for batches in zip(*map(seen_by, teachers), strict=True):
        answers = zip(teachers, batches, strict=True)
        yield mean_log_probabilities([teacher.logits(seen.numpy()) for teacher, seen in answers])


def label_views(
    teachers: list[Teacher],
    source: ViewSource,
    path: Path,
    label_format: LabelFormat,
    *,
    rows: range,
    unfinished: Path,
) -> None:
    """Write the logits of all views of some examples to `path`.

    A killed labelling continues with what `unfinished` holds.
    """
    num_views = source.num_views
    # So a batch never holds views of two chunks, and begins where it would in any shard.
    assert label_file.ROWS_PER_CHUNK % BATCH_SIZE == 0

    def chunks_from(first: int) -> Iterator[np.ndarray]:
        views = tf.data.Dataset.range(first * num_views, rows.stop * num_views)
        pairs = views.map(lambda number: (number // num_views, number % num_views))
        batches = _logit_batches(teachers, source, pairs, BATCH_SIZE)
        batches_per_chunk = label_file.ROWS_PER_CHUNK * num_views // BATCH_SIZE
        while chunk := list(itertools.islice(batches, batches_per_chunk)):
            yield np.concatenate(chunk)

    write_label_file(
        path,
        label_format,
        rows=rows,
        num_views=num_views,
        chunks_from=chunks_from,
        unfinished=unfinished,
    )


def _inputs(run: RunDir, experiment: Experiment) -> dict[str, Any]:
    config = experiment.soft_labels.model_dump(mode="json")
    return {**view_inputs(run, experiment), "teacher": teacher_digest(run), **config}


def _label_format(experiment: Experiment, examples: Examples) -> LabelFormat:
    top_k, num_classes = experiment.soft_labels.top_k, len(examples.classes)
    if top_k is not None and top_k >= num_classes:
        raise UserError(
            f"soft_labels.top_k is {top_k}, and there are {num_classes} classes. Expected fewer; "
            "null keeps all logits."
        )
    return LabelFormat(num_classes, top_k)


def _label(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    path: Path,
    rows: range,
    workspace: Workspace,
) -> Built:
    source = student_views(run, experiment, photos)
    teachers = load_teachers(run, experiment)
    label_views(
        teachers,
        source,
        path,
        _label_format(experiment, source.examples),
        rows=rows,
        unfinished=workspace.file("labels.npy"),
    )
    return [path], {"num_examples": len(rows), "num_views": source.num_views}
