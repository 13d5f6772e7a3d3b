"""A SavedModel answers, or is refused before anything of it runs."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.contract import TeacherFile
from configs.errors import UserError
from distill.labels.teacher_files import open_teacher_file
from distill.saved_model import open_saved_model

IMAGE = tf.TensorSpec((None, 8, 8, 3), tf.float32)


def mean(image):
    return tf.reduce_mean(image, [1, 2])


def exported(function, path: Path) -> Path:
    module = tf.Module()
    signature = tf.function(function, input_signature=[IMAGE])
    tf.saved_model.save(module, str(path), signatures={"serving_default": signature})
    return path


def writes(path):
    def function(image):
        tf.io.write_file(path, "x")
        return {"answers": mean(image)}

    return function


def reads(path):
    def function(image):
        content = tf.strings.length(tf.io.read_file(path))
        return {"answers": mean(image) + tf.cast(content, tf.float32)}

    return function


def runs_python(path):
    def function(image):
        return {"answers": tf.ensure_shape(tf.py_function(mean, [image], tf.float32), (None, 3))}

    return function


def prints(path):
    def function(image):
        tf.print("x", output_stream=f"file://{path}")
        return {"answers": mean(image)}

    return function


def saves(path):
    def function(image):
        tf.raw_ops.SaveV2(
            prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[mean(image)]
        )
        return {"answers": mean(image)}

    return function


def reads_records(path):
    def function(image):
        dataset = tf.data.TFRecordDataset(path)
        count = dataset.reduce(0.0, lambda number, _: number + 1.0)
        return {"answers": mean(image) + count}

    return function


@pytest.mark.parametrize(
    ("make", "operation"),
    [
        (writes, "WriteFile"),
        (reads, "ReadFile"),
        (runs_python, "EagerPyFunc"),
        (prints, "PrintV2"),
        (saves, "SaveV2"),
        (reads_records, "TFRecordDataset"),
    ],
)
def test_a_graph_that_touches_files_or_runs_code_is_refused_as_a_teacher_too(
    tmp_path: Path, make, operation: str
) -> None:
    (tmp_path / "there").write_text("")
    path = exported(make(str(tmp_path / "there")), tmp_path / "model")
    with pytest.raises(UserError, match=f"runs {operation}, which touches files or runs code"):
        open_saved_model(path)
    with pytest.raises(UserError, match="touches files"):
        open_teacher_file(TeacherFile(path=path, image_size=8), ["a", "b", "c"])
    assert (tmp_path / "there").read_text() == ""


def test_printing_to_the_terminal_harms_nobody(tmp_path: Path) -> None:
    def function(image):
        tf.print("answering")
        return {"answers": mean(image)}

    served = open_saved_model(exported(function, tmp_path / "model"))
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    (answers,) = served.function(tf.constant(images)).values()
    np.testing.assert_allclose(answers, images.mean(axis=(1, 2)), rtol=1e-5)


def test_a_teacher_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    """Keras 3 exports augmentation layers as active: every answer would differ."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.RandomFlip(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    model.export(tmp_path / "model", verbose=False)
    with pytest.raises(UserError, match="draws random numbers"):
        open_teacher_file(TeacherFile(path=tmp_path / "model", image_size=8), ["a", "b", "c"])


def test_a_folder_that_is_no_saved_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no saved_model\.pb"):
        open_saved_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(UserError, match="damaged"):
        open_saved_model(tmp_path)


@pytest.mark.parametrize("name", ["variables/variables.index", "saved_model.pb"])
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2))
    model.export(tmp_path / "model", verbose=False)
    path = tmp_path / "model" / name
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is not a SavedModel that loads here|is damaged"):
        open_saved_model(tmp_path / "model")
