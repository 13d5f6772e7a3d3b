"""Which photos the batches of a training hold."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.schema.views import ViewsConfig
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource
from distill.data.scan import scan_folder
from distill.training.batches import Order, labelled_per_batch, share_of, training_batches

LABELLED, UNLABELLED = np.array([2, 5, 7]), np.array([0, 1, 3, 4, 6, 8, 9, 10, 11, 12, 13])
NUM_BATCHES, EPOCHS = 5, 4


def order(*, first: tuple[int, int] = (0, 0), batch_size: int = 6, num_views: int = 2) -> Order:
    """The order from an (epoch, update) on."""
    epoch, step = first
    return Order(
        seed=3,
        num_views=num_views,
        batch_size=batch_size,
        num_batches=NUM_BATCHES,
        epochs=range(epoch, EPOCHS),
        initial_step=step,
    )


def batches(pairs: tf.data.Dataset, batch_size: int = 6) -> np.ndarray:
    """int64, (batches, batch size, 2): index and view."""
    parts = list(pairs.as_numpy_iterator())
    assert len(parts) % batch_size == 0
    return np.array(parts).reshape(-1, batch_size, 2)


@pytest.mark.parametrize("share", [0.01, 0.34, 0.5, 0.99])
def test_every_batch_has_its_share_of_labelled_photos(share: float) -> None:
    mixed = batches(order().mixed(LABELLED, UNLABELLED, share))
    assert len(mixed) == NUM_BATCHES * EPOCHS
    num_labelled = {0.01: 1, 0.34: 2, 0.5: 3, 0.99: 5}[share]
    assert set(np.isin(mixed[..., 0], LABELLED).sum(axis=1)) == {num_labelled}


def test_photos_of_a_group_come_equally_often_and_their_views_take_turns() -> None:
    mixed = batches(order(num_views=2).mixed(LABELLED, UNLABELLED, 0.34)).reshape(-1, 2)
    for group in (LABELLED, UNLABELLED):
        stream = mixed[np.isin(mixed[:, 0], group)]
        passes = [stream[i : i + len(group)] for i in range(0, len(stream), len(group))]
        for number, one_pass in enumerate(passes):
            assert set(one_pass[:, 1]) == {number % 2}
            assert len(set(one_pass[:, 0])) == len(one_pass)
        assert set(passes[0][:, 0]) == set(group)
        assert not np.array_equal(passes[0][:, 0], passes[1][:, 0])


def test_groups_of_one_size_have_orders_of_their_own() -> None:
    rows = np.arange(100)
    mixed = batches(order(batch_size=20).mixed(rows, rows, 0.5), 20)
    assert not np.array_equal(mixed[:, :10, 0], mixed[:, 10:, 0])


@pytest.mark.parametrize("share", [None, 0.34])
def test_a_training_resumed_at_any_update_sees_the_same_batches(share: float | None) -> None:
    def seen(**first: tuple[int, int]) -> np.ndarray:
        one = order(**first)
        if share is None:
            return batches(one.shuffled(np.arange(6 * NUM_BATCHES + 2)))
        return batches(one.mixed(LABELLED, UNLABELLED, share))

    undisturbed = seen()
    for epoch, step in itertools.product(range(EPOCHS), range(NUM_BATCHES)):
        assert np.array_equal(seen(first=(epoch, step)), undisturbed[epoch * NUM_BATCHES + step :])


def test_without_a_share_the_order_is_the_one_that_it_always_was(photo_folder: Path) -> None:
    """Trained models of older versions have seen their photos in this order."""
    examples = scan_folder(photo_folder)["train"]

    def reader(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
        return np.stack([indices, views], axis=1).astype("float32")

    source = ViewSource(examples, PhotoStore(16), ViewsConfig(), num_views=2, seed=1)
    dataset = training_batches(
        source, image_size=16, batch_size=4, seed=7, initial_epoch=1, epochs=4, soft_labels=reader
    )
    seen = [tuple(row) for _, targets in dataset for row in targets.numpy()[:, 2:].tolist()]
    assert len(seen) == 3 * (len(examples) // 4) * 4
    expected = []
    for epoch in (1, 2, 3):
        permutation = tf.random.experimental.stateless_shuffle(
            tf.range(len(examples), dtype=tf.int64), [7, epoch]
        )
        whole = permutation[: len(examples) // 4 * 4].numpy().tolist()
        expected += [(index, epoch % 2) for index in whole]
    assert seen == expected


def test_processes_share_the_rows_of_every_batch() -> None:
    pairs = tf.data.Dataset.from_tensor_slices((range(14), [7] * 14))

    def rows(number: int, num_parts: int) -> list[int]:
        share = share_of(pairs, 6, (number, num_parts))
        return [int(index) for index, _ in share.as_numpy_iterator()]

    # Two whole batches, 0 to 5 and 6 to 11; the last two photos fill none.
    assert [rows(n, 2) for n in range(2)] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert [rows(n, 3) for n in range(3)] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_the_shares_of_a_batch_make_up_the_batch(photo_folder: Path) -> None:
    examples = scan_folder(photo_folder)["train"]
    source = ViewSource(examples, PhotoStore(16), ViewsConfig(mixup=0.5), num_views=2, seed=1)

    def part(**share: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
        dataset = training_batches(
            source, image_size=16, batch_size=6, seed=7, initial_epoch=1, epochs=2,
            initial_step=2, **share,
        )  # fmt: skip
        return list(dataset.as_numpy_iterator())

    whole, first, second = part(), part(share=(0, 2)), part(share=(1, 2))
    assert len(whole) == len(first) == len(second) > 1
    for batch, *parts in zip(whole, first, second, strict=True):
        for number in range(2):  # images and targets
            assert np.array_equal(batch[number], np.concatenate([p[number] for p in parts]))


def test_a_photo_that_is_left_out_stays_a_partner_of_mixed_views(photo_folder: Path) -> None:
    examples = scan_folder(photo_folder)["train"]
    whole = ViewSource(examples, PhotoStore(16), ViewsConfig(mixup=1.0), num_views=1, seed=1)
    rows = np.arange(0, len(examples), 2)

    def images(source: ViewSource, batch_size: int) -> dict[bytes, bytes]:
        (batch,) = training_batches(
            source, image_size=16, batch_size=batch_size, seed=1, initial_epoch=0, epochs=1
        )
        pairs = zip(*(part.numpy() for part in batch), strict=True)
        return {image.tobytes(): target.tobytes() for image, target in pairs}

    every = images(whole, len(examples))
    fewer = images(replace(whole, rows=rows), len(rows))
    assert len(fewer) == len(rows)
    assert fewer.items() <= every.items()


@pytest.mark.parametrize(
    ("share", "batch_size", "num_labelled"),
    [(0.5, 32, 16), (0.001, 32, 1), (0.999, 32, 31), (0.3, 2, 1), (0.25, 10, 2)],
)
def test_a_batch_has_photos_of_both_kinds(share: float, batch_size: int, num_labelled: int) -> None:
    assert labelled_per_batch(share, batch_size) == num_labelled


CLASSES = np.array([0, 0, 1, 0, 0, 0, 2, 0, 0, 1, 0, 2, 0, 0])
"""Ten photos of the first class, two of each of the others."""


def test_balanced_batches_have_every_class_equally_often() -> None:
    rows = np.arange(len(CLASSES))
    pairs = batches(order(num_views=3).balanced(rows, CLASSES))
    assert len(pairs) == NUM_BATCHES * EPOCHS
    for batch in pairs:  # six places, three classes
        assert np.bincount(CLASSES[batch[:, 0]]).tolist() == [2, 2, 2]
    for label in range(3):
        stream = pairs.reshape(-1, 2)[CLASSES[pairs.reshape(-1, 2)[:, 0]] == label]
        photos = set(rows[label == CLASSES].tolist())
        for number, start in enumerate(range(0, len(stream), len(photos))):
            one_pass = stream[start : start + len(photos)]
            assert set(one_pass[:, 1].tolist()) == {number % 3}
            if len(one_pass) == len(photos):
                assert set(one_pass[:, 0].tolist()) == photos


@pytest.mark.parametrize("share", [None, 0.34])
def test_balanced_training_resumed_at_any_update_sees_the_same(share: float | None) -> None:
    def seen(**first: tuple[int, int]) -> np.ndarray:
        one = order(batch_size=5, **first)
        if share is None:
            return batches(one.balanced(UNLABELLED, CLASSES), 5)
        return batches(one.mixed(LABELLED, UNLABELLED, share, CLASSES), 5)

    undisturbed = seen()
    for epoch, step in itertools.product(range(EPOCHS), range(NUM_BATCHES)):
        assert np.array_equal(seen(first=(epoch, step)), undisturbed[epoch * NUM_BATCHES + step :])


def test_the_labelled_share_holds_while_both_groups_are_balanced() -> None:
    mixed = batches(order().mixed(LABELLED, UNLABELLED, 0.34, CLASSES))
    assert set(np.isin(mixed[..., 0], LABELLED).sum(axis=1)) == {2}
    for group in (LABELLED, UNLABELLED):
        stream = mixed.reshape(-1, 2)[:, 0]
        num = np.bincount(CLASSES[stream[np.isin(stream, group)]], minlength=3)
        num = num[np.unique(CLASSES[group])]
        assert num.max() - num.min() <= 1


def test_a_photo_without_a_label_counts_to_its_teachers_answer(photo_folder: Path) -> None:
    examples = scan_folder(photo_folder)["train"]
    labels = examples.labels.copy()
    hidden = np.arange(len(labels)) % 4 != 0
    labels[hidden] = -1
    answers = np.where(np.arange(len(labels)) < 4, 1, 0)  # four dogs, says the teacher

    def reader(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
        return np.eye(2, dtype="float32")[answers[indices]] * 5

    source = ViewSource(
        replace(examples, labels=labels), PhotoStore(16), ViewsConfig(), 2, seed=1, balanced=True
    )
    dataset = training_batches(
        source, image_size=16, batch_size=8, seed=7, initial_epoch=0, epochs=3, soft_labels=reader
    )
    targets = np.concatenate([targets.numpy() for _, targets in dataset])
    said = targets[:, 2:].argmax(axis=1)
    known = targets[:, :2].sum(axis=1) > 0
    classes = np.where(known, targets[:, :2].argmax(axis=1), said)
    assert len(targets) == 3 * (len(labels) // 8) * 8
    assert np.bincount(classes).tolist() == [len(targets) // 2] * 2
    assert 0 < known.sum() < len(known)
