"""`tf.data` pipelines: views for training and labelling, the evaluation view elsewhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from configs.artifacts import file_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.views import ViewsConfig
from distill.data.manifest import Examples, Labels, student_examples, teacher_examples
from distill.data.mixing import draw_mix, mix_images
from distill.data.photo_store import PhotoStore
from distill.data.views import training_view
from eval.images import Fitting, evaluation_batches, evaluation_image

if keras.backend.backend() != "tensorflow":
    # Here TensorFlow only makes views. It would take the memory of the GPUs that JAX trains on.
    tf.config.set_visible_devices([], "GPU")

LabelReader = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Reads soft labels: (example indices, view numbers) -> float32 (batch, classes + features), the
logits of the teacher and, for a feature loss, its features."""


class View(NamedTuple):
    """One view of one example: what a model sees of a photo.

    Attributes:
        index: int64, which example.
        view: int64, which of its views.
        image: float32, (image_size, image_size, 3), 0..255.
        partner: index of the example that is mixed into it; its own index without mixing.
        own_weight: the example's own share of the image and of the label.
    """

    index: tf.Tensor
    view: tf.Tensor
    image: tf.Tensor
    partner: tf.Tensor
    own_weight: tf.Tensor


@dataclass(frozen=True)
class ViewSource:
    """Examples and how they become views. Teacher and student see the same views.

    Attributes:
        photos: decodes the photos of the examples.
        views: the augmentations.
        num_views: view numbers repeat after so many epochs.
        seed: of everything that a view draws.
        rows: indices of the examples that a training uses, int64; None: all. The others stay, as
            partners of mixed views.
        labelled_share: of each batch of a training; None: as the photos come.
        balanced: whether every class comes equally often in a training.
    """

    examples: Examples
    photos: PhotoStore
    views: ViewsConfig
    num_views: int
    seed: int
    rows: np.ndarray | None = None
    labelled_share: float | None = None
    balanced: bool = False

    @property
    def training_rows(self) -> np.ndarray:
        """Indices of the examples that a training uses, int64."""
        return np.arange(len(self.examples)) if self.rows is None else self.rows

    def steps_per_epoch(self, batch_size: int) -> int:
        """How many updates an epoch of a training has."""
        return steps_per_epoch(len(self.training_rows), batch_size)

    def images(self, pairs: tf.data.Dataset, image_size: int) -> tf.data.Dataset:
        """(index, view) pairs -> `View`s in the same order, made in parallel."""
        return pairs.map(
            lambda index, view: self._view(index, view, image_size),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def _view(self, index: tf.Tensor, view: tf.Tensor, image_size: int) -> View:
        image = self._photo_view(index, view, image_size)
        if not (self.views.mixup or self.views.cutmix):
            return View(index, view, image, index, tf.constant(1.0))
        mix = draw_mix(
            example_id=self._id(index),
            view=view,
            seed=self.seed,
            num_examples=len(self.examples),
            views=self.views,
        )
        image = mix_images(image, self._photo_view(mix.partner, view, image_size), mix)
        return View(index, view, image, mix.partner, mix.own_weight)

    def _photo_view(self, index: tf.Tensor, view: tf.Tensor, image_size: int) -> tf.Tensor:
        photo = tf.numpy_function(self._photo, [index], tf.uint8, stateful=False)
        photo.set_shape((None, None, 3))
        return training_view(
            photo,
            example_id=self._id(index),
            view=view,
            seed=self.seed,
            views=self.views,
            image_size=image_size,
        )

    def _photo(self, index: np.int64) -> np.ndarray:
        return self.photos.photo(self.examples.ids[index], self.examples.paths[int(index)])

    def _id(self, index: tf.Tensor) -> tf.Tensor:
        """The first bytes of a photo's digest, int64; those of all photos would not fit a graph."""
        number = tf.numpy_function(self._first_bytes, [index], tf.int64, stateful=False)
        number.set_shape(())
        return number

    def _first_bytes(self, index: np.int64) -> np.int64:
        return np.int64(int(self.examples.ids[index][:15], 16))


def open_photo_store(run: RunDir, experiment: Experiment, *, num_stores: int = 1) -> PhotoStore:
    """The store for all models of a run. Photos that do not fit in memory go to its disk.

    Args:
        num_stores: that are open at the same time, in as many processes.
    """
    return PhotoStore(largest_image(experiment), overflow_to=run.path, num_stores=num_stores)


def labelled_views(
    run: RunDir,
    experiment: Experiment,
    photos: PhotoStore,
    num_views: int,
    labels: Labels = "shown",
) -> ViewSource:
    """The views of photos with labels. Teacher and control learn from these.

    Args:
        labels: "all" adds the photos whose labels are hidden.
    """
    examples = teacher_examples(run, labels)
    return ViewSource(examples, photos, experiment.views, num_views, experiment.seed)


def student_views(run: RunDir, experiment: Experiment, photos: PhotoStore) -> ViewSource:
    """The views that have soft labels: of the training photos, then of those without labels."""
    num_views = experiment.soft_labels.num_views
    examples = student_examples(run)
    return ViewSource(examples, photos, experiment.views, num_views, experiment.seed)


def view_inputs(run: RunDir, experiment: Experiment) -> dict[str, Any]:
    """What views depend on, as inputs of a step."""
    return {
        "manifest": file_sha256(run.photos_manifest),
        "views": experiment.views.model_dump(mode="json"),
        "seed": experiment.seed,
        "largest_image": largest_image(experiment),
    }


def largest_image(experiment: Experiment) -> int:
    """The largest input of the networks of a run, in pixels."""
    return max(experiment.teacher.image_size, experiment.student.image_size)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in an epoch; 1 if all examples together do not fill a batch."""
    return max(num_examples // batch_size, 1)


def evaluation_images(
    examples: Examples,
    image_size: tuple[int, int],
    batch_size: int,
    fitting: Fitting | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images float32 (batch, height, width, 3), labels (batch,)) through the evaluation view.

    Args:
        fitting: how a foreign model wants photos to be fitted; None as our own.
    """
    start, read = 0, partial(evaluation_image, fitting=fitting)
    for images in evaluation_batches(examples.paths, image_size, batch_size, read):
        yield images.astype("float32"), examples.labels[start : start + len(images)]
        start += len(images)
