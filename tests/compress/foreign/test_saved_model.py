"""SavedModel folders without layers: their graph answers as it is, or they are refused."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compress.foreign.load import load_foreign
from compress.graph.classifier import image_size_of
from compress.graph.replay import copy_model
from configs.errors import UserError
from small_models import classifier, logits_of, random_images

IMAGES = random_images(3, 8)
IMAGE = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")


def save(path: Path, function, **signatures) -> Path:
    module = tf.Module()
    traced = tf.function(function, input_signature=[IMAGE])
    tf.saved_model.save(module, str(path), signatures=signatures or {"serving_default": traced})
    return path


def test_a_graph_is_a_classifier_that_can_be_copied(tmp_path: Path) -> None:
    model = classifier(layers.Dense(3))
    model.export(tmp_path / "saved", verbose=False)
    loaded = load_foreign(tmp_path / "saved")
    assert image_size_of(loaded) == (8, 8)
    np.testing.assert_allclose(logits_of(loaded, IMAGES), logits_of(model, IMAGES), atol=1e-5)
    np.testing.assert_array_equal(logits_of(copy_model(loaded), IMAGES), logits_of(loaded, IMAGES))


def test_what_no_keras_made_loads(tmp_path: Path) -> None:
    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": tf.reduce_mean(image, axis=[1, 2]) / 255.0}

    loaded = load_foreign(save(tmp_path / "plain", answer))
    np.testing.assert_allclose(logits_of(loaded, IMAGES), IMAGES.mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_augmentation_that_keras_exports_as_active_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.RandomFlip(), layers.Flatten()])
    model.export(tmp_path / "saved", verbose=False)
    with pytest.raises(UserError, match=r"draws random numbers .* give the \.keras file"):
        load_foreign(tmp_path / "saved")


def test_a_graph_that_writes_files_never_runs(tmp_path: Path) -> None:
    proof = tmp_path / "executed"

    def answer(image: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.io.write_file(str(proof), "here")]):
            return tf.reduce_mean(image, axis=[1, 2])

    with pytest.raises(UserError, match="runs WriteFile, which touches files"):
        load_foreign(save(tmp_path / "bad", answer))
    assert not proof.exists()


def test_the_wrong_number_of_outputs_is_named(tmp_path: Path) -> None:
    def two(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"a": image[:, 0, 0], "b": image[:, 1, 1]}

    with pytest.raises(UserError, match="has 1 inputs and 2 outputs"):
        load_foreign(save(tmp_path / "two", two))


def test_a_folder_without_a_usual_signature_lists_those_it_has(tmp_path: Path) -> None:
    traced = tf.function(lambda image: image[:, 0, 0], input_signature=[IMAGE])
    with pytest.raises(UserError, match=r"has the signatures embed\. Expected serving_default"):
        load_foreign(save(tmp_path / "named", traced, embed=traced))
