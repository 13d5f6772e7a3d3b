from pathlib import Path

import keras
import numpy as np
import pytest

from configs.schema import ViewsConfig
from distill import soft_labels
from distill.data import scan_folder
from distill.inputs import ViewSource, view_source
from distill.soft_labels import label_views, load_soft_labels, view_logits


@pytest.fixture
def source(photo_folder: Path) -> ViewSource:
    examples = scan_folder(photo_folder)["train"]
    return view_source(examples, views=ViewsConfig(), num_views=3, seed=1, largest_image=16)


@pytest.fixture
def teacher() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def test_a_label_is_the_logit_of_its_view(
    source: ViewSource, teacher: keras.Model, tmp_path: Path
) -> None:
    path = tmp_path / "labels.npy"
    label_views(teacher, source, path, image_size=16)
    labels = load_soft_labels(path)
    assert labels.shape == (len(source.examples), 3, 2)
    assert labels.dtype == np.float16
    live = view_logits(teacher, source, range(4, 5), image_size=16)
    # float16 keeps eleven bits
    assert np.allclose(labels[4], live, rtol=2**-10, atol=1e-3)
    assert not np.allclose(labels[4, 0], labels[4, 1], atol=1e-3)  # views differ


def test_a_killed_labelling_goes_on_where_it_was(
    source: ViewSource, teacher: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soft_labels, "PHOTOS_PER_CHUNK", 8)
    whole, killed = tmp_path / "whole.npy", tmp_path / "killed.npy"
    label_views(teacher, source, whole, image_size=16)
    asked: list[int] = []

    def dying(model, source, indices, *, image_size):
        asked.append(indices.start)
        if asked == [0, 8, 16]:
            raise KeyboardInterrupt
        return view_logits(model, source, indices, image_size=image_size)

    monkeypatch.setattr(soft_labels, "view_logits", dying)
    with pytest.raises(KeyboardInterrupt):
        label_views(teacher, source, killed, image_size=16)
    assert not killed.exists()
    label_views(teacher, source, killed, image_size=16)
    assert asked[3] == 16  # the two finished chunks were not done again
    assert np.array_equal(load_soft_labels(killed), load_soft_labels(whole))


def test_progress_of_a_file_that_is_gone_is_not_believed(
    source: ViewSource, teacher: keras.Model, tmp_path: Path
) -> None:
    path = tmp_path / "labels.npy"
    (tmp_path / ".unfinished-labels.json").write_text('{"done": 1000000}')
    label_views(teacher, source, path, image_size=16)
    assert np.abs(load_soft_labels(path).astype("float32")).min(axis=(1, 2)).max() > 0
