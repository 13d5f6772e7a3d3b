"""Soft labels are the logits of their views, whatever the batch, shard or interruption."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from configs.schema.views import ViewsConfig
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource
from distill.data.scan import scan_folder
from distill.labels import label_file
from distill.labels import view_logits as labelling
from distill.labels.label_file import LabelFormat, label_reader, shard_rows
from distill.labels.view_logits import label_views, view_logits
from distill.teacher import Teacher

STRONG = ViewsConfig(
    crop=(0.3, 1.0), vertical_flip=True, rotation=30, shift=0.1, shear=10, zoom=0.2,
    brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, erasing=0.5, mixup=0.4, cutmix=1.0,
)  # fmt: skip
TWO = LabelFormat(num_classes=2)


@pytest.fixture
def view_source(photo_folder: Path) -> ViewSource:
    examples = scan_folder(photo_folder)["train"]
    return ViewSource(examples, PhotoStore(16), STRONG, 3, seed=1)


def linear(image_size: int, seed: int) -> Teacher:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((image_size, image_size, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    return Teacher(image_size, lambda images: np.asarray(model.predict_on_batch(images)))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture
def teacher() -> Teacher:
    return linear(16, seed=0)


def write(teacher: Teacher, view_source: ViewSource, path: Path, rows: range | None = None) -> Path:
    rows = range(len(view_source.examples)) if rows is None else rows
    label_views([teacher], view_source, path, TWO, rows=rows)
    return path


def test_labels_are_the_logits_of_their_views_in_batches_of_any_size(
    view_source: ViewSource, teacher: Teacher, tmp_path: Path
) -> None:
    read = label_reader(write(teacher, view_source, tmp_path / "labels.npy"), TWO)
    rng = np.random.default_rng(0)
    indices, views = rng.integers(len(view_source.examples), size=50), rng.integers(3, size=50)
    live = view_logits([teacher], view_source, indices, views, batch_size=7)
    stored = read(indices, views)
    # float16 has eleven bits, and sums in another order round differently.
    assert np.allclose(stored, live, rtol=2**-10, atol=1e-4)
    assert stored.std(axis=0).min() > 0.01  # views differ by more than that


@pytest.mark.parametrize(
    "views",
    [
        {"crop": (0.3, 0.8)}, {"flip": True}, {"vertical_flip": True}, {"rotation": 30},
        {"shift": 0.2}, {"shear": 15}, {"zoom": 0.3}, {"brightness": 0.3}, {"contrast": 0.3},
        {"saturation": 0.5}, {"hue": 0.2}, {"erasing": 0.7}, {"mixup": 0.4}, {"cutmix": 1.0},
    ],
    ids=lambda views: next(iter(views)),
)  # fmt: skip
def test_a_thousand_labels_of_each_augmentation_are_what_the_teacher_says_now(
    photo_folder: Path, teacher: Teacher, tmp_path: Path, views: dict[str, Any]
) -> None:
    examples = scan_folder(photo_folder)["train"]
    config = ViewsConfig(**{"crop": (1.0, 1.0), "flip": False, **views})
    view_source = ViewSource(examples, PhotoStore(16), config, 30, seed=1)
    stored = label_reader(write(teacher, view_source, tmp_path / "labels.npy"), TWO)
    rng = np.random.default_rng(0)
    indices, numbers = rng.integers(len(examples), size=1000), rng.integers(30, size=1000)
    live = view_logits([teacher], view_source, indices, numbers, batch_size=13)
    # float16 has eleven bits, and sums in another order round differently.
    assert np.allclose(stored(indices, numbers), live, rtol=2**-10, atol=1e-4)


def test_a_killed_labelling_continues_where_it_was(
    view_source: ViewSource, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_file, "ROWS_PER_CHUNK", 8)
    monkeypatch.setattr(labelling, "BATCH_SIZE", 8)
    whole = np.load(write(teacher, view_source, tmp_path / "whole.npy"))
    batch_sizes: list[int] = []

    def dying_logits(images: np.ndarray) -> np.ndarray:
        batch_sizes.append(len(images))
        if len(batch_sizes) == 7:
            raise KeyboardInterrupt
        return teacher.logits(images)

    dying = Teacher(16, dying_logits)
    killed = tmp_path / "killed.npy"
    with pytest.raises(KeyboardInterrupt):
        write(dying, view_source, killed)
    write(dying, view_source, killed)
    # A chunk is 3 batches of 8 views: the two finished chunks were not labelled again.
    assert len(batch_sizes) - 1 == -(-3 * len(view_source.examples) // 8)
    assert np.array_equal(np.load(killed), whole)


def test_teachers_get_a_view_at_their_own_sizes_and_are_averaged(
    view_source: ViewSource, teacher: Teacher
) -> None:
    other = linear(24, seed=1)
    indices, views = np.arange(10), np.arange(10) % 3
    alone = [
        view_logits([single], view_source, indices, views, batch_size=4)
        for single in (teacher, other)
    ]
    together = view_logits([teacher, other], view_source, indices, views, batch_size=10)
    first, second = (softmax(logits) for logits in alone)
    # The geometric mean of two distributions, renormalised.
    expected = np.sqrt(first * second)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(together), expected, rtol=1e-4)


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_shards_are_the_whole_bit_for_bit(
    view_source: ViewSource,
    teacher: Teacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_shards: int,
) -> None:
    monkeypatch.setattr(label_file, "ROWS_PER_CHUNK", 8)
    monkeypatch.setattr(labelling, "BATCH_SIZE", 8)
    whole = np.load(write(teacher, view_source, tmp_path / "whole.npy"))
    parts = [
        np.load(
            write(
                teacher,
                view_source,
                tmp_path / f"{i}.npy",
                shard_rows(len(view_source.examples), i, num_shards),
            )
        )
        for i in range(1, num_shards + 1)
    ]
    assert np.array_equal(np.concatenate(parts), whole)
