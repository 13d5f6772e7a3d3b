"""Every usual container of a Keras model loads, and answers as it did where it was made."""

import contextlib
import errno
import shutil
import zipfile
from functools import partial
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from compress.foreign.load import load_foreign
from configs.errors import UserError
from distill.backbones.weights import foreign_file
from distill.backbones.weights.foreign_file import needs_conversion
from distill.backbones.weights_file import load_weights_file
from distill.model_file import load_model
from small_models import logits_of, random_images

IMAGES = random_images(4, 16)


def net(*first, head=None) -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = x = keras.Input((16, 16, 3))
    for layer in first:
        x = layer(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x / 255.0)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, (head or layers.Dense(3, name="head"))(x), name="net")


def assert_same(loaded: keras.Model, model: keras.Model, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(logits_of(loaded, IMAGES), logits_of(model, IMAGES), atol=tolerance)


@pytest.mark.parametrize(
    "name", ["net.keras", "net.h5", "net.hdf5", "NET.H5", "NET.KERAS", "NET.Hdf5", "renamed.h5"]
)
def test_every_ending_loads(tmp_path: Path, name: str) -> None:
    model = net()
    # The content decides: renamed.h5 is a .keras file.
    saved = tmp_path / ("saved.keras" if "KERAS" in name.upper() or "renamed" in name else "s.h5")
    model.save(saved)
    shutil.copy(saved, tmp_path / name)
    assert_same(load_foreign(tmp_path / name), model)


def load_weights(path: Path) -> keras.Model:
    return load_weights_file(net(), path)


@pytest.mark.parametrize("load", [load_model, load_foreign, load_weights])
@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "No space left")])
def test_a_lack_of_memory_or_space_is_no_damage(
    load, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net().save(tmp_path / "net.keras")

    def run_out(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(keras.saving, "load_model", run_out)
    with pytest.raises(type(error)):
        load(tmp_path / "net.keras")


def test_a_folder_of_model_export_loads(tmp_path: Path) -> None:
    model = net()
    model.export(tmp_path / "v1.2", verbose=False)
    assert_same(load_foreign(tmp_path / "v1.2"), model)


def test_a_normalization_of_learned_statistics_survives_h5(tmp_path: Path) -> None:
    normalization = layers.Normalization()
    normalization.adapt(random_images(8, 16) / 7)
    model = net(normalization)
    model.save(tmp_path / "net.h5")
    assert_same(load_foreign(tmp_path / "net.h5"), model)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_blocks_of_convnext_need_no_option(tmp_path: Path, ending: str) -> None:
    block = keras.applications.convnext.ConvNeXtTiny(
        weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None
    )
    layer = next(layer for layer in block.layers if type(layer).__name__ == "LayerScale")
    inputs = keras.Input((16, 16, 3))
    scale = type(layer)(0.5, 3, name="scale")
    head = layers.Dense(3)(layers.GlobalAveragePooling2D()(scale(inputs)))
    model = keras.Model(inputs, head)
    scale.gamma.assign([1.0, -2.0, 3.0])
    model.save(tmp_path / f"net{ending}")
    assert_same(load_foreign(tmp_path / f"net{ending}"), model, 1e-4)  # answers in the hundreds


def test_a_file_of_weights_is_called_that(tmp_path: Path) -> None:
    net().save_weights(tmp_path / "w.weights.h5")
    shutil.move(tmp_path / "w.weights.h5", tmp_path / "best.h5")
    with pytest.raises(UserError, match=r"best\.h5 holds weights and no model\. Build the model"):
        load_foreign(tmp_path / "best.h5")


def test_what_is_no_model_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "text.keras").write_text("not a model")
    (tmp_path / "empty").mkdir()
    net().save(tmp_path / "net.keras")
    content = (tmp_path / "net.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    for name, reason in {
        "absent.h5": "does not exist",
        "text.keras": "first bytes",
        "empty": "a folder without a saved_model.pb",
        "cut.keras": "half downloaded",
    }.items():
        with pytest.raises(UserError, match=reason) as error:
            load_foreign(tmp_path / name)
        assert "Expected a whole model: a .keras or .h5 file, or a SavedModel folder." in str(
            error.value
        )


def test_a_file_of_a_newer_keras_says_which_versions_there_are(tmp_path: Path) -> None:
    net().save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        config = file.attrs["model_config"]
        file.attrs["model_config"] = config.replace('"filters": 4', '"filters": 4, "news": 1')
        file.attrs["keras_version"] = "3.99.0"
    with pytest.raises(UserError, match=r"news") as error:
        load_foreign(tmp_path / "net.h5")
    assert f"Keras 3.99.0 saved it, and Keras {keras.__version__} reads it" in str(error.value)
    assert len(str(error.value)) < 900


def changed(path: Path, name: str, content: bytes) -> Path:
    """The .keras file with another content of one member."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**members, name: content}.items():
            archive.writestr(member, data)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.json", b"[1]"),
        ("metadata.json", b"{"),
        ("metadata.json", b'{"keras_version": "x.y"}'),
        ("config.json", b"[" * 100_000),
        ("config.json", b"null"),
        ("config.json", b'{"a":' * 800 + b"1" + b"}" * 800),
        ("model.weights.h5", b"no weights"),
    ],
)
def test_a_damaged_member_of_a_keras_file_is_named(
    tmp_path: Path, name: str, content: bytes
) -> None:
    net().save(tmp_path / "net.keras")
    path = changed(tmp_path / "net.keras", name, content)
    with pytest.raises(UserError, match=r"net\.keras (is|needs)"):
        load_foreign(path)
    needs_conversion(path)
    with contextlib.suppress(UserError):  # Keras itself does not read its metadata
        load_model(path)


def test_flipped_bits_of_the_weights_are_a_sentence(tmp_path: Path) -> None:
    net().save(tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as archive:
        weights = bytearray(archive.read("model.weights.h5"))
    weights[100:900] = bytes(800)  # groups of HDF5
    path = changed(tmp_path / "net.keras", "model.weights.h5", bytes(weights))
    for load in (load_foreign, load_model):
        with pytest.raises(UserError, match=r"net\.keras is"):
            load(path)


def test_a_keras_file_that_grows_without_measure_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_file, "LEAST_LIMIT_BYTES", 10**6)
    net().save(tmp_path / "net.keras")
    load_model(tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(10**7))
    for load in (load_foreign, load_model, partial(load_weights_file, net())):
        with pytest.raises(UserError, match=r"net\.keras grows to 10 MiB when it is read"):
            load(tmp_path / "net.keras")
