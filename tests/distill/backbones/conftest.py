"""Backbones with and without weights files, and a cache of Keras that no network fills."""

import hashlib
import socket

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet as keras_efficientnet
from keras.src.backend import config as keras_config
from keras.src.legacy.saving import legacy_h5_format

from distill.backbones.weights.published import catalogue
from distill.backbones.weights_file import find_normalization
from small_models import SIZE, build

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], "float32")
IMAGENET_STD = np.array([0.229, 0.224, 0.225], "float32")


@pytest.fixture(scope="module")
def b0():
    return build(weights=None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, b0):
    """Name -> a model and the folder that holds it as model.keras and model.weights.h5."""
    folder = tmp_path_factory.mktemp("saved")
    models = {
        "efficientnet_b0": b0,
        "efficientnet_lite0": build("efficientnet_lite0", weights=None),
    }
    for name, model in models.items():
        (folder / name).mkdir()
        model.save(folder / name / "model.keras")
        model.save_weights(folder / name / "model.weights.h5")
    return {name: (model, folder / name) for name, model in models.items()}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3)).astype("float32")


@pytest.fixture
def no_network(monkeypatch):
    """Any request fails and is counted."""
    requests = []

    def refuse(*args, **kwargs):
        requests.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return requests


@pytest.fixture
def keras_models(tmp_path, monkeypatch):
    """The folder of Keras' weights, empty."""
    monkeypatch.setattr(keras_config, "keras_home", lambda: str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture(scope="module")
def notop_bytes(tmp_path_factory):
    """A file like efficientnetb0_notop.h5: legacy HDF5, with Keras' ImageNet statistics."""
    keras.utils.set_random_seed(3)
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    find_normalization(model).set_weights([IMAGENET_MEAN, IMAGENET_STD, np.array(0)])
    path = tmp_path_factory.mktemp("notop") / "weights.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return path.read_bytes()


@pytest.fixture
def notop(keras_models, notop_bytes, monkeypatch):
    """The same where Keras looks for it, under a matching checksum."""
    path = keras_models / "efficientnetb0_notop.h5"
    path.write_bytes(notop_bytes)
    md5 = hashlib.md5(notop_bytes).hexdigest()
    monkeypatch.setitem(catalogue()["efficientnet_b0"]["imagenet"]["1.0"], "checksum", md5)
    monkeypatch.setitem(keras_efficientnet.WEIGHTS_HASHES, "b0", ("", md5))
    return path
