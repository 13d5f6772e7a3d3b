from pathlib import Path

import keras
import numpy as np
import pytest

from configs.schema import ViewsConfig
from distill import label_file
from distill.data import scan_folder
from distill.inputs import ViewSource, view_source
from distill.label_file import LabelFormat, label_reader, shard_rows
from distill.soft_labels import label_views, view_logits

STRONG = ViewsConfig(
    crop=(0.3, 1.0), vertical_flip=True, rotation=30, shift=0.1, shear=10, zoom=0.2,
    brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, erasing=0.5, mixup=0.4, cutmix=1.0,
)  # fmt: skip
TWO = LabelFormat(num_classes=2)


@pytest.fixture
def source(photo_folder: Path) -> ViewSource:
    examples = scan_folder(photo_folder)["train"]
    return view_source(examples, views=STRONG, num_views=3, seed=1, largest_image=16)


@pytest.fixture
def teacher() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def write(teacher: keras.Model, source: ViewSource, path: Path, rows: range | None = None) -> Path:
    rows = range(len(source.examples)) if rows is None else rows
    label_views(teacher, source, path, TWO, rows=rows, image_size=16)
    return path


def test_labels_are_the_logits_of_their_views_in_batches_of_any_size(
    source: ViewSource, teacher: keras.Model, tmp_path: Path
) -> None:
    read = label_reader(write(teacher, source, tmp_path / "labels.npy"), TWO)
    rng = np.random.default_rng(0)
    indices, views = rng.integers(len(source.examples), size=50), rng.integers(3, size=50)
    live = view_logits(teacher, source, indices, views, image_size=16, batch_size=7)
    stored = read(indices, views)
    # float16 keeps eleven bits; sums in another order tip some roundings.
    assert np.allclose(stored, live, rtol=2**-10, atol=1e-4)
    assert stored.std(axis=0).min() > 0.01  # views differ by more than that


def test_a_killed_labelling_goes_on_where_it_was(
    source: ViewSource, teacher: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_file, "ROWS_PER_CHUNK", 8)
    whole = np.load(write(teacher, source, tmp_path / "whole.npy"))
    asked: list[int] = []

    class Dying:
        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            asked.append(len(images))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return teacher.predict_on_batch(images)

    killed = tmp_path / "killed.npy"
    with pytest.raises(KeyboardInterrupt):
        write(Dying(), source, killed)
    assert not killed.exists()
    write(Dying(), source, killed)
    # Each chunk is a batch of 8 photos x 3 views: the two finished ones were not done again.
    assert len(asked) - 1 == -(-len(source.examples) // 8)
    assert np.array_equal(np.load(killed), whole)


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_shards_are_the_whole_bit_for_bit(
    source: ViewSource,
    teacher: keras.Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_shards: int,
) -> None:
    monkeypatch.setattr(label_file, "ROWS_PER_CHUNK", 8)
    whole = np.load(write(teacher, source, tmp_path / "whole.npy"))
    parts = [
        np.load(
            write(
                teacher,
                source,
                tmp_path / f"{i}.npy",
                shard_rows(len(source.examples), i, num_shards),
            )
        )
        for i in range(1, num_shards + 1)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(("num_rows", "num_shards"), [(1000, 3), (128, 1), (129, 2), (5000, 7)])
def test_shards_hold_every_row_once(num_rows: int, num_shards: int) -> None:
    shards = [shard_rows(num_rows, i, num_shards) for i in range(1, num_shards + 1)]
    assert [row for shard in shards for row in shard] == list(range(num_rows))
