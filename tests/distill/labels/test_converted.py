"""A teacher that another Keras wrote is converted once, and then answers as it did."""

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tf_keras

from configs.artifacts import path_sha256
from configs.contract import TeacherFile
from configs.errors import UserError
from distill.labels.converted import needs_conversion, readable_file
from distill.labels.teacher_files import open_teacher_file
from small_models import classifier, random_images

CLASSES = ["cat", "dog"]


def keras2_model() -> tf_keras.Model:
    """Keras 3 would read the file, and answer otherwise."""
    tf_keras.utils.set_random_seed(1)
    return tf_keras.Sequential(
        [
            tf_keras.layers.Rescaling(1 / 64, -2, input_shape=(16, 16, 3)),
            tf_keras.layers.Conv2D(4, 3, activation="hard_sigmoid"),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dense(2),
        ]
    )


def test_a_keras_2_teacher_is_converted_once(tmp_path: Path) -> None:
    model, images = keras2_model(), random_images(4, 16)
    path, folder = tmp_path / "old.h5", tmp_path / "converted"
    model.save(path)
    file, sha256 = TeacherFile(path=path, image_size=16), path_sha256(path)

    first = readable_file(file, sha256, folder)
    written = first.path.stat().st_mtime_ns
    answers = open_teacher_file(first, CLASSES).outputs(images)
    expected = np.asarray(model(images))
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-5)
    naive = keras.saving.load_model(path, compile=False).predict_on_batch(images)
    assert np.abs(naive - expected).max() > 1e-3

    path.unlink()  # the run was copied to another machine
    second = readable_file(file, sha256, folder)
    assert second == first
    assert second.path.stat().st_mtime_ns == written
    assert readable_file(file, None, folder) == file


def test_only_files_that_keras_3_misreads_are_converted(tmp_path: Path) -> None:
    classifier(keras.layers.Dense(2)).save(tmp_path / "own.keras")
    classifier(keras.layers.Dense(2)).save(tmp_path / "own.h5")
    keras2_model().save(tmp_path / "old.keras")
    (tmp_path / "text.keras").write_text("no model")
    with open(tmp_path / "ours.tflite", "wb") as file:  # its metadata is a ZIP at its end
        file.write(b"\x1c\0\0\0TFL3")
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("metadata.json", "{}")
    names = ("own.keras", "own.h5", "old.keras", "text.keras", "ours.tflite", "absent.h5", ".")
    assert [needs_conversion(tmp_path / name) for name in names] == [
        False, True, True, False, False, False, False,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_teacher_that_holds_weights_alone_is_called_that(tmp_path: Path) -> None:
    classifier(keras.layers.Dense(2)).save_weights(tmp_path / "a.weights.h5")
    path = (tmp_path / "a.weights.h5").rename(tmp_path / "best.h5")
    file = TeacherFile(path=path, image_size=8)
    with pytest.raises(UserError, match=r"the teacher .*best\.h5 holds weights and no model"):
        readable_file(file, path_sha256(path), tmp_path)
    assert not list(tmp_path.glob("best*.keras"))
