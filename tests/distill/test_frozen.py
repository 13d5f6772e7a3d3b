"""A frozen model answers as before, and gives its memory back."""

import gc
import multiprocessing
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
from keras import layers

from configs.schema.views import ViewsConfig
from distill import frozen
from distill.backbones import BACKBONES
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource
from distill.data.scan import scan_folder
from distill.frozen import answers_of
from distill.labels.label_file import LabelFormat
from distill.labels.view_logits import label_views
from distill.teacher import Teacher, keras_teacher
from small_models import classifier, random_images, settle

SIZE = 32
IMAGES = random_images(5, SIZE)


def assert_equal_answers(model: keras.Model, images: np.ndarray = IMAGES) -> None:
    expected = np.asarray(model.predict_on_batch(images))
    answers = answers_of(model)(images)
    assert answers.dtype == expected.dtype
    # Scales that are folded into kernels round differently in float32.
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def with_body(*body: keras.Layer, size: int | None = SIZE, **options: Any) -> keras.Model:
    return keras.Sequential(
        [keras.Input((size, size, 3), **options), *body, layers.GlobalAveragePooling2D(),
         layers.Dense(3)]
    )  # fmt: skip


def test_a_pretrained_model_answers_as_before() -> None:
    keras.utils.set_random_seed(0)
    build = BACKBONES["efficientnet_lite0"]
    model = build(image_size=SIZE, num_classes=3, weights="imagenet")
    assert np.asarray(model.predict_on_batch(IMAGES)).std() > 0.01
    assert_equal_answers(model)


def test_a_model_with_swish_and_normalisation_answers_as_before() -> None:
    # Not a whole B0 from scratch: at 32 px it turns 1e-7 of the pixels into 3e-3 of the answers.
    keras.utils.set_random_seed(0)
    body = [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.Activation("swish")]
    model = settle(with_body(layers.Rescaling(1 / 255), *body, layers.Conv2D(8, 1)), IMAGES)
    assert_equal_answers(model)


@pytest.mark.parametrize(
    "body",
    [
        [layers.RandomFlip(), layers.RandomRotation(0.3), layers.GaussianNoise(0.5)],
        [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.Dropout(0.5)],
        [layers.Conv2D(8, 3), layers.Conv2D(8, 3, groups=4)],  # Keras compiles it with XLA
        [layers.Reshape((SIZE, SIZE * 3)), layers.LSTM(4), layers.Reshape((1, 1, 4))],  # a loop
    ],
    ids=["augmentation", "normalisation", "groups", "loop"],
)
def test_layers_behave_as_in_inference(body: list[keras.Layer]) -> None:
    keras.utils.set_random_seed(0)
    assert_equal_answers(with_body(*body))


def test_the_type_of_the_input_stays() -> None:
    assert_equal_answers(with_body(layers.Rescaling(1 / 255), dtype="uint8"))


def test_photos_of_another_shape_are_answered_too() -> None:
    model = with_body(layers.Conv2D(4, 3), size=None)
    answers = answers_of(model)
    for size in (SIZE, 16, SIZE):
        images = random_images(2, size)
        np.testing.assert_allclose(answers(images), model.predict_on_batch(images), rtol=1e-5)


def test_a_batch_is_answered_in_parts_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_body()
    monkeypatch.setattr(frozen, "NUMBERS_AT_ONCE", 2 * IMAGES[0].size)  # parts of 2, 2 and 1
    assert_equal_answers(model)
    monkeypatch.setattr(frozen, "NUMBERS_AT_ONCE", 1)  # less than a photo
    assert_equal_answers(model)


def test_under_another_backend_the_model_is_asked_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(layers.Dense(3))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(frozen, "_freeze", None)
    assert_equal_answers(model, random_images(2, 8))


def test_a_model_that_no_graph_could_hold_is_asked_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frozen, "MAX_FROZEN_BYTES", 4 * 11)  # the model has 12 weights
    monkeypatch.setattr(frozen, "_freeze", None)
    assert_equal_answers(classifier(layers.Dense(3)), random_images(2, 8))


def freeze_wide_models(memory: Any) -> None:
    """Freeze four models of 37 MB, one after the other; send the process' bytes after each."""

    def freeze() -> weakref.ref[Any]:
        model = classifier(layers.Dense(16, "swish"), layers.Dense(2**19, "swish"), layers.Dense(1))
        answers_of(model)(random_images(2, 8))
        return weakref.ref(model)

    for _ in range(4):
        model = freeze()
        gc.collect()
        assert model() is None
        memory.send(psutil.Process().memory_info().rss)


def test_the_copy_of_the_weights_is_freed_with_the_function() -> None:
    # A swish in a traced graph keeps that graph for ever, and so would keep its constants.
    # In a process of its own: one that ran other tests gives memory back when it likes.
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=freeze_wide_models, args=(theirs,))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    memory = [ours.recv() for _ in range(4)]
    # The weights take 37 MB. What else a process keeps is far less.
    assert memory[-1] - memory[0] < 37e6


def test_soft_labels_are_those_of_predict_on_batch(photo_folder: Path, tmp_path: Path) -> None:
    examples = scan_folder(photo_folder)["train"]
    views = ViewSource(examples, PhotoStore(SIZE), ViewsConfig(crop=(0.3, 1.0)), 2, seed=1)
    keras.utils.set_random_seed(0)
    build = BACKBONES["efficientnet_lite0"]
    model = build(image_size=SIZE, num_classes=2, weights="imagenet")
    before = Teacher(SIZE, lambda images: np.asarray(model.predict_on_batch(images)))
    labels = []
    for name, teacher in (("before", before), ("now", keras_teacher(model))):
        path = tmp_path / f"{name}.npy"
        label_views([teacher], views, path, LabelFormat(2), rows=range(len(examples)))
        labels.append(np.load(path))
    # float16 has eleven bits: an answer near the middle of two steps may round to either.
    np.testing.assert_allclose(labels[1], labels[0], rtol=2**-10, atol=1e-5)
    assert (labels[0] != labels[1]).mean() < 0.05
