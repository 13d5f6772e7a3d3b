"""The batches of a training: which views of which photos, in which order, with their targets."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from distill.data.manifest import Examples
from distill.data.pipelines import LabelReader, View, ViewSource

LABELS_AT_ONCE = 4096
"""Photos whose soft labels are in memory together."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of a training from one of its updates on.

    Attributes:
        seed: of all permutations.
        num_views: view numbers repeat after so many.
        num_batches: of an epoch.
        epochs: those that are left.
        initial_step: how many batches of the first of these epochs are left out.
    """

    seed: int
    num_views: int
    batch_size: int
    num_batches: int
    epochs: range
    initial_step: int = 0

    def shuffled(self, rows: np.ndarray) -> tf.data.Dataset:
        """Pairs in which an epoch is a permutation of the photos, without a partial last batch.

        The permutation is drawn from (seed, epoch), and the view number is the epoch.

        Args:
            rows: indices of the examples, int64.
        """

        def key(epoch: tf.Tensor) -> tf.Tensor:
            return tf.stack([self.seed, tf.cast(epoch, tf.int32)])

        epochs = tf.data.Dataset.range(self.epochs.start, self.epochs.stop)
        pairs = self._permutations(rows, epochs, key, length=self.num_batches * self.batch_size)
        return pairs.skip(self.initial_step * self.batch_size)

    def balanced(self, rows: np.ndarray, classes: np.ndarray) -> tf.data.Dataset:
        """Pairs in which every class comes equally often, however many photos it has.

        Args:
            rows: indices of the examples, int64.
            classes: of all examples, int64.
        """
        pairs = self._balanced_stream(rows, classes, 0, start=self._update * self.batch_size)
        return pairs.take(self._updates_left * self.batch_size)

    @property
    def _update(self) -> int:
        """The number of the first update, from the start of the training."""
        return self.epochs.start * self.num_batches + self.initial_step

    @property
    def _updates_left(self) -> int:
        return self.epochs.stop * self.num_batches - self._update

    def mixed(
        self,
        labelled: np.ndarray,
        unlabelled: np.ndarray,
        share: float,
        classes: np.ndarray | None = None,
    ) -> tf.data.Dataset:
        """Pairs in which every batch begins with the same number of labelled photos.

        Both groups are endless streams of permutations, drawn from (seed, group, pass through the
        group). The view number is the pass. The number of the update alone says where the streams
        stand, so a training that is resumed at any update sees what an undisturbed one sees.

        Args:
            labelled, unlabelled: indices of the examples, int64; neither is empty.
            share: of the labelled photos in a batch; see `labelled_per_batch`.
            classes: of all examples, int64; both groups are then balanced. None: as photos come.
        """
        num_labelled = labelled_per_batch(share, self.batch_size)
        streams = []
        for group, (rows, number) in enumerate(
            [(labelled, num_labelled), (unlabelled, self.batch_size - num_labelled)]
        ):
            start = self._update * number
            if classes is None:
                stream = self._stream(rows, group, start=start)
            else:
                stream = self._balanced_stream(rows, classes, group, start=start)
            streams.append(stream.batch(number))
        batches = tf.data.Dataset.zip(*streams).take(self._updates_left)
        joined = batches.map(lambda a, b: (tf.concat([a[0], b[0]], 0), tf.concat([a[1], b[1]], 0)))
        return joined.unbatch()

    def _balanced_stream(
        self, rows: np.ndarray, classes: np.ndarray, group: int, *, start: int
    ) -> tf.data.Dataset:
        """The pairs of round after round through the classes of a group, without the first `start`.

        A round has one photo of every class that the group holds, in an order of its own. The
        photos of a class come in permutations, and the view number is the pass through the class.
        A round and its place say all, so that nothing depends on where a training starts.
        """
        labels = classes[rows]
        of_class = [rows[labels == label] for label in np.unique(labels)]
        drawn: dict[tuple[int, int], np.ndarray] = {}

        def photo(label: int, number: int) -> tuple[int, int]:
            passes, place = divmod(number, len(of_class[label]))
            if (label, passes) not in drawn:
                drawn.pop((label, passes - 1), None)
                generator = np.random.default_rng([self.seed, group, label, passes])
                drawn[label, passes] = generator.permutation(of_class[label])
            return int(drawn[label, passes][place]), passes % self.num_views

        def pairs() -> Iterator[tuple[int, int]]:
            for number in itertools.count(start // len(of_class)):
                # Five numbers: a permutation of photos has four, and so never the same ones.
                order = np.random.default_rng([self.seed, group, number, 0, 1])
                for label in order.permutation(len(of_class)):
                    yield photo(int(label), number)

        pair = (tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.int64))
        dataset = tf.data.Dataset.from_generator(pairs, output_signature=pair)
        return dataset.skip(start % len(of_class))

    def _stream(self, rows: np.ndarray, group: int, *, start: int) -> tf.data.Dataset:
        """The pairs of pass after pass through a group, without the first `start`."""

        def key(number: tf.Tensor) -> tf.Tensor:
            drawn_from = tf.stack([self.seed, tf.cast(number, tf.int32)])
            return tf.random.experimental.stateless_fold_in(drawn_from, group)

        passes = tf.data.Dataset.counter(start // len(rows))
        return self._permutations(rows, passes, key, length=len(rows)).skip(start % len(rows))

    def _permutations(
        self,
        rows: np.ndarray,
        numbers: tf.data.Dataset,
        key: Callable[[tf.Tensor], tf.Tensor],
        *,
        length: int,
    ) -> tf.data.Dataset:
        """The first `length` pairs of the permutation of each number."""

        def pairs(number: tf.Tensor) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(
                tf.constant(rows, tf.int64), key(number)
            )
            view = number % self.num_views
            return tf.data.Dataset.from_tensor_slices(order[:length]).map(
                lambda index: (index, view)
            )

        return numbers.flat_map(pairs)


def labelled_per_batch(share: float, batch_size: int) -> int:
    """How many photos of a batch have labels: `share` of them, and never none or all."""
    return min(max(round(share * batch_size), 1), batch_size - 1)


def training_batches(
    source: ViewSource,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    initial_epoch: int,
    epochs: int,
    initial_step: int = 0,
    soft_labels: LabelReader | None = None,
    num_features: int = 0,
    share: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """(images, targets) of all epochs from `initial_epoch` on, one after the other.

    `Order` says which photos a batch holds. A run that is resumed at any update sees what an
    undisturbed run sees.

    Args:
        seed: of the order; views have their own seed.
        initial_step: how many batches of the first epoch are left out.
        soft_labels: the teacher's logits and features of the views, or None.
        num_features: how many features that are.
        share: (number, of how many) parts of every batch, numbered from 0. Parts are equally large.

    Returns:
        images: float32, (batch, image_size, image_size, 3).
        targets: float32, (batch, classes): one-hot, mixed, or zeros for a photo without a label.
            With soft labels (batch, 2 * classes + num_features): the teacher's logits and features
            follow.
    """
    num_batches = source.steps_per_epoch(batch_size)
    batch_size = min(batch_size, len(source.training_rows))
    num_rows = batch_size // share[1]
    target_of_labels = _targets(source.examples, soft_labels)
    num_classes = len(source.examples.classes)

    def batch(views: View) -> tuple[tf.Tensor, tf.Tensor]:
        parts = [views.index, views.view, views.partner, views.own_weight]
        targets = tf.numpy_function(target_of_labels, parts, tf.float32, stateful=False)
        width = num_classes * (1 if soft_labels is None else 2) + num_features
        targets.set_shape((num_rows, width))
        return views.image, targets

    order = Order(
        seed=seed,
        num_views=source.num_views,
        batch_size=batch_size,
        num_batches=num_batches,
        epochs=range(initial_epoch, epochs),
        initial_step=initial_step,
    )
    pairs = share_of(_pairs(source, order, soft_labels), batch_size, share)
    views = source.images(pairs, image_size).batch(num_rows, drop_remainder=True)
    return views.map(batch).prefetch(tf.data.AUTOTUNE)


def share_of(pairs: tf.data.Dataset, batch_size: int, share: tuple[int, int]) -> tf.data.Dataset:
    """The pairs of one part of every batch, in their order; see `training_batches`."""
    number, num_parts = share
    if num_parts == 1:
        return pairs
    num_rows = batch_size // num_parts
    rows = slice(number * num_rows, (number + 1) * num_rows)
    batches = pairs.batch(batch_size, drop_remainder=True)
    return batches.map(lambda indices, views: (indices[rows], views[rows])).unbatch()


def _pairs(source: ViewSource, order: Order, soft_labels: LabelReader | None) -> tf.data.Dataset:
    """The (index, view) pairs of a training."""
    rows = source.training_rows
    classes = _classes(source, soft_labels) if source.balanced else None
    if source.labelled_share is None:
        return order.shuffled(rows) if classes is None else order.balanced(rows, classes)
    has_label = source.examples.labels[rows] >= 0
    return order.mixed(rows[has_label], rows[~has_label], source.labelled_share, classes)


def _classes(source: ViewSource, soft_labels: LabelReader | None) -> np.ndarray:
    """The class of every example, int64: its label, or else its teacher's answer to its view 0."""
    classes = source.examples.labels.astype("int64")
    unlabelled = np.flatnonzero(classes < 0)
    if soft_labels is None:
        return classes  # one more class where nobody knows better
    for start in range(0, len(unlabelled), LABELS_AT_ONCE):
        part = unlabelled[start : start + LABELS_AT_ONCE]
        logits = soft_labels(part, np.zeros(len(part), "int64"))
        classes[part] = logits[:, : len(source.examples.classes)].argmax(axis=1)
    return classes


def _targets(
    examples: Examples, soft_labels: LabelReader | None
) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Returns the function that makes the targets of a batch, from the four parts of its views."""
    classes = np.arange(len(examples.classes))

    def one_hot(indices: np.ndarray) -> np.ndarray:
        # The row of a photo without a label (-1) is all zeros.
        return (examples.labels[indices, None] == classes).astype("float32")

    def targets(
        indices: np.ndarray, views: np.ndarray, partners: np.ndarray, own_weights: np.ndarray
    ) -> np.ndarray:
        own = own_weights[:, None]
        labels = own * one_hot(indices) + (1 - own) * one_hot(partners)
        if soft_labels is None:
            return labels
        return np.concatenate([labels, soft_labels(indices, views)], axis=1)

    return targets
