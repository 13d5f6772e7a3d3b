"""Weights by path: whole models, weights alone, files of Keras Applications, and other files."""

import shutil

import keras
import numpy as np
import pytest

from configs.errors import UserError
from distill.backbones import BACKBONES
from small_models import SIZE, build, kinds, logits_of


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_weights_by_path_give_the_same_logits(name, suffix, saved, image):
    model, folder = saved[name]
    again = build(name, weights=str(folder / f"model{suffix}"))
    assert kinds(again) == kinds(model)
    # The same operations on the same numbers.
    np.testing.assert_allclose(logits_of(again, image), logits_of(model, image), atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_the_ending_of_a_weights_file_may_be_in_capitals(suffix, saved, image, tmp_path):
    model, folder = saved["efficientnet_lite0"]
    path = tmp_path / f"MODEL{suffix.upper()}"
    shutil.copy(folder / f"model{suffix}", path)
    again = build("efficientnet_lite0", weights=str(path))
    np.testing.assert_allclose(logits_of(again, image), logits_of(model, image), atol=1e-5)


def test_weights_by_path_keep_the_preprocessing_of_imagenet_weights(notop, tmp_path, image):
    model = build(weights="imagenet")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    for path in (tmp_path / "model.keras", tmp_path / "model.weights.h5"):
        again = build(weights=str(path))
        assert kinds(again) == kinds(model)
        # The same operations on the same numbers.
        np.testing.assert_allclose(logits_of(again, image), logits_of(model, image), atol=1e-5)


def test_a_file_of_keras_applications_can_be_given_by_path(notop, image):
    features = [
        keras.Model(model.input, model.get_layer("avg_pool").output)
        for model in (build(weights="imagenet"), build(weights=str(notop)))
    ]
    first, second = (logits_of(model, image) for model in features)
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_by_path_for_another_number_of_classes_start_a_new_classifier(suffix, saved, image):
    model, folder = saved["efficientnet_lite0"]
    path = str(folder / f"model{suffix}")
    other = BACKBONES["efficientnet_lite0"](image_size=SIZE, num_classes=7, weights=path)
    assert other.output.shape == (None, 7)
    for ours, theirs in zip(other.get_weights()[:-2], model.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("efficientnet_b0", "efficientnet_lite0"), ("efficientnet_lite0", "efficientnet_b0")],
)
def test_weights_of_another_architecture_are_refused(theirs, ours, suffix, saved):
    _, folder = saved[theirs]
    with pytest.raises(UserError, match=f"do not fit {ours}"):
        build(ours, weights=str(folder / f"model{suffix}"))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_a_damaged_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match="do not fit efficientnet_lite0"):
        build("efficientnet_lite0", weights=str(path))


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"'nowhere/best\.keras' do not exist"):
        build("efficientnet_lite0", weights="nowhere/best.keras")
