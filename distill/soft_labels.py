"""Teacher logits of views: computed once, then reread.

Logits, never probabilities, never divided by a temperature: another temperature, weight or loss
needs no new labels.
"""

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.progress import track
from configs.run_dir import RunDir, Step, digest, output_sha256, write_json
from configs.schema import Experiment
from distill.classifier import load_model
from distill.inputs import ViewSource
from distill.teacher import shared_views, view_inputs

PHOTOS_PER_CHUNK = 128
BATCH_SIZE = 32


def soft_labels_step(run: RunDir, experiment: Experiment) -> Step:
    """Label every view of every training photo with the teacher's logits."""
    teacher = output_sha256(run.model_dir("teacher") / "manifest.json", "model.keras")
    num_views = experiment.soft_labels.num_views
    inputs = {**view_inputs(run, experiment), "teacher": teacher, "num_views": num_views}
    path = run.soft_labels(digest(inputs))

    def build() -> tuple[list[Path], dict[str, Any]]:
        source = shared_views(run, experiment, num_views)
        model = load_model(run.model("teacher"))
        label_views(model, source, path, image_size=experiment.teacher.image_size)
        return [path], {"num_examples": len(source.examples), "num_views": num_views}

    return Step("soft labels", path.with_suffix(".json"), inputs, build)


def load_soft_labels(path: Path) -> np.ndarray:
    """float16, (examples, views, classes), mapped from disk."""
    return np.load(path, mmap_mode="r")


def label_views(model: keras.Model, source: ViewSource, path: Path, *, image_size: int) -> None:
    """Write the logits of all views to `path`, as float16 (examples, views, classes).

    Written chunk by chunk under a temporary name, with how far it is beside it; a killed
    labelling goes on at the first chunk that is missing.
    """
    shape = (len(source.examples), source.num_views, len(source.examples.classes))
    unfinished = path.with_name(f".unfinished-{path.name}")
    progress = unfinished.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = json.loads(progress.read_text())["done"] if progress.exists() else 0
    if done and unfinished.exists():
        labels = np.lib.format.open_memmap(unfinished, mode="r+")
    else:
        done = 0
        progress.unlink(missing_ok=True)  # it told of a file that is gone
        labels = np.lib.format.open_memmap(unfinished, mode="w+", dtype="float16", shape=shape)
        # Room for all of it now: a disk that fills up under a memory map kills the process.
        if hasattr(os, "posix_fallocate"):
            with open(unfinished, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, unfinished.stat().st_size)
    with track("soft labels", shape[0] * shape[1]) as advance:
        for start in range(done, shape[0], PHOTOS_PER_CHUNK):
            stop = min(start + PHOTOS_PER_CHUNK, shape[0])
            logits = view_logits(model, source, range(start, stop), image_size=image_size)
            labels[start:stop] = logits.reshape(stop - start, *shape[1:])
            labels.flush()
            write_json(progress, {"done": stop})
            advance(stop * shape[1])
    del labels
    progress.unlink()
    unfinished.replace(path)


def view_logits(
    model: keras.Model, source: ViewSource, indices: range, *, image_size: int
) -> np.ndarray:
    """Logits of all views of some examples, float32 (examples * views, classes)."""
    views = tf.data.Dataset.range(source.num_views)
    pairs = tf.data.Dataset.range(indices.start, indices.stop).flat_map(
        lambda index: views.map(lambda view: (index, view))
    )
    batches = source.images(pairs, image_size).map(lambda view: view.image)
    batches = batches.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    return np.concatenate([np.asarray(model.predict_on_batch(images)) for images in batches])
