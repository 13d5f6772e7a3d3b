from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.schema.views import ViewsConfig
from distill.data.mixing import Mix, draw_mix, mix_images
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource
from distill.data.scan import scan_folder
from distill.training.batches import training_batches


def mix_of(view: int, *, num_examples: int = 50, **views) -> Mix:
    return draw_mix(
        example_id=tf.constant(7, tf.int64),
        view=tf.constant(view, tf.int64),
        seed=1,
        num_examples=num_examples,
        views=ViewsConfig(**views),
    )


def test_a_mix_belongs_to_its_view() -> None:
    for a, b in zip(mix_of(3, mixup=0.4, cutmix=1), mix_of(3, mixup=0.4, cutmix=1), strict=True):
        assert np.array_equal(a, b)
    assert mix_of(3, mixup=0.4).own_weight != mix_of(4, mixup=0.4).own_weight


def test_mixup_weights_follow_their_beta_distribution() -> None:
    stats = pytest.importorskip("scipy.stats")
    weights = [float(mix_of(view, mixup=0.4).own_weight) for view in range(400)]
    # A correct sample fails this once in 1,000 times. The seed is fixed, so it always passes.
    assert stats.kstest(weights, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_every_example_can_be_a_partner() -> None:
    partners = {int(mix_of(view, num_examples=5, mixup=1).partner) for view in range(100)}
    assert partners == {0, 1, 2, 3, 4}


def test_the_weight_of_cutmix_is_the_area_that_stays() -> None:
    own, other = tf.zeros((100, 100, 3)), tf.ones((100, 100, 3))
    for view in range(20):
        mix = mix_of(view, cutmix=1)
        assert bool(mix.is_cut)
        mixed = mix_images(own, other, mix).numpy()
        assert set(np.unique(mixed)) <= {0.0, 1.0}
        # Each edge can be off by half a pixel of a hundred.
        assert 1 - mixed.mean() == pytest.approx(float(mix.own_weight), abs=0.02)


def test_mixup_blends_by_the_weight_of_the_label() -> None:
    mix = mix_of(2, mixup=1)
    mixed = mix_images(tf.fill((4, 4, 3), 10.0), tf.fill((4, 4, 3), 20.0), mix).numpy()
    weight = float(mix.own_weight)
    assert np.allclose(mixed, weight * 10 + (1 - weight) * 20)


def test_mixup_and_cutmix_share_the_views_evenly() -> None:
    cuts = sum(bool(mix_of(view, mixup=0.4, cutmix=1).is_cut) for view in range(200))
    assert 70 <= cuts <= 130  # 100 expected, four standard deviations are 28


def test_labels_are_mixed_as_the_images_are(photo_folder: Path) -> None:
    examples = scan_folder(photo_folder)["train"]
    views = ViewsConfig(mixup=1.0)
    source = ViewSource(examples, PhotoStore(16), views, 2, seed=1)
    pairs = tf.data.Dataset.range(len(examples)).map(lambda i: (i, tf.constant(0, tf.int64)))
    views_in_order = list(source.images(pairs, 16).as_numpy_iterator())
    batches = training_batches(
        source, image_size=16, batch_size=len(examples), seed=1, initial_epoch=0, epochs=1
    )
    images, targets = next(iter(batches))
    one_hot = np.eye(len(examples.classes))[examples.labels]
    for image, target in zip(images.numpy(), targets.numpy(), strict=True):
        view = next(v for v in views_in_order if np.array_equal(v.image, image))
        expected = view.own_weight * one_hot[view.index]
        expected = expected + (1 - view.own_weight) * one_hot[view.partner]
        assert np.allclose(target, expected, atol=1e-6)


def test_a_photo_without_a_label_has_none_in_its_batch(photo_folder: Path) -> None:
    examples = scan_folder(photo_folder)["train"]
    unlabelled = np.where(np.arange(len(examples)) % 2, examples.labels, -1).astype("int32")
    source = ViewSource(
        replace(examples, labels=unlabelled), PhotoStore(16), ViewsConfig(), num_views=1, seed=1
    )
    batches = training_batches(
        source, image_size=16, batch_size=len(examples), seed=1, initial_epoch=0, epochs=1
    )
    _, targets = next(iter(batches))
    expected = np.bincount(unlabelled[unlabelled >= 0], minlength=2)
    assert targets.numpy().sum(axis=0).tolist() == expected.tolist()
