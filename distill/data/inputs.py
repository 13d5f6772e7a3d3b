"""`tf.data` pipelines: views for training and labelling, the evaluation view elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from configs.schema import ViewsConfig
from distill.data.manifest import Examples
from distill.data.mixing import draw_mix, mix_images
from distill.data.photo_store import PhotoStore, shared_store
from distill.data.views import training_view
from distill.labels.label_file import Reader
from eval.images import evaluation_batches


class View(NamedTuple):
    """One view of one example.

    Attributes:
        image: float32, (image_size, image_size, 3), 0..255.
        partner: index of the example mixed into it; its own where none is.
        own_weight: share of the label that is the example's own.
    """

    index: tf.Tensor
    view: tf.Tensor
    image: tf.Tensor
    partner: tf.Tensor
    own_weight: tf.Tensor


@dataclass(frozen=True)
class ViewSource:
    """Examples and the rule by which they become views: what teacher and student share."""

    examples: Examples
    store: PhotoStore
    views: ViewsConfig
    num_views: int
    seed: int

    def images(self, pairs: tf.data.Dataset, image_size: int) -> tf.data.Dataset:
        """(index, view) pairs -> `View`s, in order, in parallel."""
        return pairs.map(
            lambda index, view: self._see(index, view, image_size),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def _see(self, index: tf.Tensor, view: tf.Tensor, image_size: int) -> View:
        image = self._photo_view(index, view, image_size)
        if not (self.views.mixup or self.views.cutmix):
            return View(index, view, image, index, tf.constant(1.0))
        mix = draw_mix(
            example_id=self._ids()[index],
            view=view,
            seed=self.seed,
            num_examples=len(self.examples),
            views=self.views,
        )
        image = mix_images(image, self._photo_view(mix.partner, view, image_size), mix)
        return View(index, view, image, mix.partner, mix.own_weight)

    def _photo_view(self, index: tf.Tensor, view: tf.Tensor, image_size: int) -> tf.Tensor:
        photo = tf.numpy_function(self.store, [index], tf.uint8, stateful=False)
        photo.set_shape((None, None, 3))
        return training_view(
            photo,
            example_id=self._ids()[index],
            view=view,
            seed=self.seed,
            views=self.views,
            image_size=image_size,
        )

    def _ids(self) -> tf.Tensor:
        return tf.constant([int(i[:15], 16) for i in self.examples.ids], tf.int64)


def view_source(
    examples: Examples,
    *,
    views: ViewsConfig,
    num_views: int,
    seed: int,
    largest_image: int,
    overflow_to: Path | None = None,
) -> ViewSource:
    """The views of `examples`.

    Args:
        largest_image: the larger of the models' two sizes, in pixels.
        overflow_to: a folder on the disk that takes decoded photos when memory has no more room.
    """
    # Twice the input: a crop of a quarter of the area still has a pixel for every one asked.
    store = shared_store(examples, 2 * largest_image, overflow_to)
    return ViewSource(examples, store, views, num_views, seed)


def training_batches(
    source: ViewSource,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    initial_epoch: int,
    epochs: int,
    initial_step: int = 0,
    soft_labels: Reader | None = None,
) -> tf.data.Dataset:
    """(images, targets) of all epochs from `initial_epoch` on, one after the other.

    An epoch is a permutation drawn from (seed, epoch) without its last, partial batch, so that
    a run resumed at any step sees what the undisturbed one does.

    Args:
        seed: of the order; the views have their own.
        initial_step: batches of the first epoch that are left out.
        soft_labels: gives the teacher's logits of some views, or None.

    Returns:
        images float32 (batch, image_size, image_size, 3); targets float32 (batch, classes),
        one-hot or mixed, zeros of a photo without a label, or (batch, 2 * classes) with the
        teacher's logits behind.
    """
    num = len(source.examples)
    steps = steps_per_epoch(num, batch_size)
    batch_size = min(batch_size, num)
    # No class is that of a photo without a label.
    one_hot = source.examples.labels[:, None] == np.arange(len(source.examples.classes))
    one_hot = one_hot.astype("float32")

    def pairs(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([seed, tf.cast(epoch, tf.int32)])
        order = tf.random.experimental.stateless_shuffle(tf.range(num, dtype=tf.int64), key)
        view = epoch % source.num_views
        return tf.data.Dataset.from_tensor_slices(order[: steps * batch_size]).map(
            lambda index: (index, view)
        )

    def targets(
        indices: np.ndarray, views: np.ndarray, partners: np.ndarray, own_weights: np.ndarray
    ) -> np.ndarray:
        own = own_weights[:, None]
        labels = own * one_hot[indices] + (1 - own) * one_hot[partners]
        if soft_labels is None:
            return labels
        return np.concatenate([labels, soft_labels(indices, views)], axis=1)

    def batch(seen: View) -> tuple[tf.Tensor, ...]:
        of_labels = [seen.index, seen.view, seen.partner, seen.own_weight]
        packed = tf.numpy_function(targets, of_labels, tf.float32, stateful=False)
        packed.set_shape((batch_size, one_hot.shape[1] * (1 if soft_labels is None else 2)))
        return seen.image, packed

    epochs_left = tf.data.Dataset.range(initial_epoch, epochs).flat_map(pairs)
    epochs_left = epochs_left.skip(initial_step * batch_size)
    seen = source.images(epochs_left, image_size).batch(batch_size, drop_remainder=True)
    return seen.map(batch).prefetch(tf.data.AUTOTUNE)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in an epoch; one of all examples where they fill none."""
    return max(num_examples // batch_size, 1)


def evaluation_images(
    examples: Examples, image_size: tuple[int, int], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images float32 (batch, height, width, 3), labels (batch,)) through the evaluation view."""
    start = 0
    for images in evaluation_batches(examples.paths, image_size, batch_size):
        yield images.astype("float32"), examples.labels[start : start + len(images)]
        start += len(images)
