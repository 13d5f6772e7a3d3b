"""The classifier alone: fitted on features of the frozen network, each computed once."""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from configs.progress import track
from configs.schema.views import ViewsConfig
from distill.backbones import HEAD
from distill.data.mixing import draw_mix
from distill.data.pipelines import View, ViewSource
from distill.frozen import Answers, answers_of
from distill.labels.label_file import ROWS_PER_CHUNK, LabelFormat, write_label_file

log = logging.getLogger("potstill")

HEAD_EPOCHS = 50
PLAIN = ViewsConfig(crop=None, flip=False)
"""Views of which all are alike."""
MAX_IN_MEMORY = 2**31
"""Features of more bytes are read from the disk."""
LARGEST = float(np.finfo("float16").max)
BATCH = 32


def fit_head(
    model: keras.Model,
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    *,
    num_examples: int,
    seed: int,
) -> None:
    """Fit the classifier on the features of the frozen network.

    Each feature is computed once, from the evaluation view. A linear classifier then learns from
    the cached features, which takes seconds.

    Args:
        batches: (images, labels) of examples that have a label.
    """
    features_of = answers_of(keras.Model(model.input, model.get_layer(HEAD).input))
    features_by_batch, labels_by_batch = [], []
    with track("features for the head", num_examples) as advance:
        for images, labels in batches:
            features_by_batch.append(features_of(images).astype("float32"))
            labels_by_batch.append(labels)
            advance(sum(map(len, labels_by_batch)))
    fit_linear(model, np.concatenate(features_by_batch), np.concatenate(labels_by_batch), seed)


def fit_linear(model: keras.Model, features: np.ndarray, labels: np.ndarray, seed: int) -> None:
    """Fit the classifier on features, (examples, features), and class numbers, (examples,)."""
    dense = model.get_layer(HEAD)
    classifier = keras.Sequential(
        [keras.Input(features.shape[1:]), keras.layers.Dense(dense.units)]
    )
    classifier.compile(
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    keras.utils.set_random_seed(seed)
    history: Any = classifier.fit(features, labels, batch_size=64, epochs=HEAD_EPOCHS, verbose=0)
    dense.set_weights(classifier.layers[-1].get_weights())
    log.info("head trained on frozen features, loss %.3f", history.history["loss"][-1])


def features_before_head(model: keras.Model) -> Any:
    """The symbolic features of a classifier, before the dropout that its head may have."""
    layer = model.get_layer(HEAD)
    features = layer.input
    while (layer := _layer_of(model, features)) is not None:
        if not isinstance(layer, keras.layers.Dropout):
            break
        features = layer.input
    return features


def _layer_of(model: keras.Model, tensor: Any) -> Any:
    for layer in model.layers:
        if any(layer.output is output for output in keras.tree.flatten(tensor)):
            return layer
    return None


@dataclass(frozen=True, kw_only=True)
class CachedViews(ViewSource):
    """Views of which a network has computed the features: they take the place of the images.

    Attributes:
        features: float16, (rows, views, features), in the order of `training_rows`.
    """

    features: np.ndarray

    def images(self, pairs: tf.data.Dataset, image_size: int) -> tf.data.Dataset:
        """(index, view) pairs -> `View`s in the same order; their images are features."""
        rows = np.zeros(len(self.examples), "int64")
        rows[self.training_rows] = np.arange(len(self.training_rows))
        place, read = tf.constant(rows), self._reader()
        mixes = bool(self.views.mixup or self.views.cutmix)

        def view(index: tf.Tensor, number: tf.Tensor) -> View:
            row = tf.gather(place, index) * self.num_views + number
            features = tf.cast(read(row), tf.float32)
            features = tf.ensure_shape(features, self.features.shape[2:])
            if not mixes:
                return View(index, number, features, index, tf.constant(1.0))
            mix = draw_mix(
                example_id=self._id(index),
                view=number,
                seed=self.seed,
                num_examples=len(self.examples),
                views=self.views,
            )
            return View(index, number, features, mix.partner, mix.own_weight)

        return pairs.map(view)

    def _reader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        flat = self.features.reshape(-1, *self.features.shape[2:])
        if flat.nbytes <= MAX_IN_MEMORY:
            in_memory = tf.constant(np.asarray(flat))
            return lambda row: tf.gather(in_memory, row)
        return lambda row: tf.numpy_function(lambda number: flat[number], [row], tf.float16)


def cached_views(
    model: keras.Model, source: ViewSource, path: Path, *, image_size: int, num_views: int
) -> CachedViews:
    """The features of all views of a training, each computed once and stored.

    A killed process continues at the first features that are not whole.

    Args:
        path: the file of the features.
        num_views: of each photo, at most; one is enough if all are alike.
    """
    num_views = 1 if source.views == PLAIN else min(num_views, source.num_views)
    source = replace(source, num_views=num_views)
    output = features_before_head(model)
    features_of = answers_of(keras.Model(model.inputs, output))
    stored_form = LabelFormat(int(np.prod(output.shape[1:])))
    write_label_file(
        path,
        stored_form,
        rows=range(len(source.training_rows)),
        num_views=num_views,
        chunks_from=lambda first: map(
            stored_form.encode, _chunks(source, features_of, first, image_size)
        ),
        noun="features for the head",
    )
    stored = np.load(path, mmap_mode="r").reshape(-1, num_views, *output.shape[1:])
    return CachedViews(**vars(source), features=stored)


def _chunks(
    source: ViewSource, features_of: Answers, first: int, image_size: int
) -> Iterator[np.ndarray]:
    """Features of the rows from `first` on, chunk by chunk, (views, features)."""
    rows, num_views = tf.constant(source.training_rows[first:]), source.num_views
    batch_size = min(BATCH, ROWS_PER_CHUNK)  # so no batch holds views of two chunks
    pairs = tf.data.Dataset.range(len(rows) * num_views).map(
        lambda number: (tf.gather(rows, number // num_views), number % num_views)
    )
    # One pipeline for all chunks: to build it takes as long as to make dozens of views.
    images = source.images(pairs, image_size).map(lambda view: view.image)
    batches = map(
        lambda batch: features_of(batch.numpy()),
        images.batch(batch_size).prefetch(tf.data.AUTOTUNE),
    )
    while chunk := list(itertools.islice(batches, ROWS_PER_CHUNK * num_views // batch_size)):
        features = np.concatenate(chunk).astype("float32")
        yield np.clip(features.reshape(len(features), -1), -LARGEST, LARGEST)


def evaluation_features(
    model: keras.Model, batches: Iterator[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """(features, labels) of a split, computed in these batches."""
    features_of = answers_of(keras.Model(model.inputs, features_before_head(model)))
    computed = [(features_of(images).astype("float32"), labels) for images, labels in batches]
    features, labels = (np.concatenate(arrays) for arrays in zip(*computed, strict=True))
    return features, labels
