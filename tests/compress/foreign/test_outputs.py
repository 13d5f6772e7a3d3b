"""Files with several outputs: the user names the one that answers."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from configs.contract import TeacherFile
from distill.labels.teacher_files import open_teacher_file
from eval.devices.probe import ModelFileError, open_model

IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """The mean colour, and probabilities of two classes."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3), batch_size=1, name="image")
    means = layers.GlobalAveragePooling2D(name="means")(image)
    probs = layers.Dense(2, activation="softmax", name="probs")(layers.Rescaling(1 / 50)(means))
    return keras.Model(image, [means, probs])


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def file(request: pytest.FixtureRequest, model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf
    import tf2onnx

    path = tmp_path_factory.mktemp("two") / f"two.{request.param}"
    if request.param == "tflite":
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        return path
    function = tf.function(model, input_signature=[tf.TensorSpec((1, 8, 8, 3), name="image")])
    tf2onnx.convert.from_function(function, function.input_signature, output_path=str(path))
    return path


def outputs_of(path: Path) -> list[str]:
    with pytest.raises(ModelFileError, match=r"2 outputs \(.*--output-layer") as error:
        open_model(path)
    return str(error.value).partition("(")[2].partition(")")[0].split(", ")


def test_the_named_output_answers(file: Path, model: keras.Model) -> None:
    answers = {name: open_model(file, output=name).predict(IMAGES) for name in outputs_of(file)}
    by_classes = {answer.shape[1]: name for name, answer in answers.items()}
    means = IMAGES.mean(axis=(1, 2))
    np.testing.assert_allclose(answers[by_classes[3]], means, rtol=1e-4)
    probs = np.concatenate([np.asarray(model(image[None])[1]) for image in IMAGES])
    np.testing.assert_allclose(answers[by_classes[2]], probs, atol=1e-4)
    opened = open_model(file, output=by_classes[2])
    assert opened.answers == "probabilities"
    with pytest.raises(ModelFileError, match="no output logits; its outputs are"):
        open_model(file, output="logits")


def test_it_is_scored_and_teaches(file: Path, program, photo_folder: Path) -> None:
    names = outputs_of(file)
    probs = next(n for n in names if open_model(file, output=n).num_classes == 2)
    words = ["evaluate", "accuracy", file, "--data", photo_folder, "--json"]
    refused = program(*words)
    assert refused.code == 2
    assert "--output-layer" in refused.err
    outcome = program(*words, "--output-layer", probs)
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out.splitlines()[-1])["files"]
    assert row["accuracy"]["n"] > 0
    photo = next(photo_folder.rglob("*.png"))
    assert program("evaluate", "predict", file, photo, "--output-layer", probs).code == 0
    wrong = program(*words, "--output-layer", "logits")
    assert "no output logits; its outputs are" in wrong.err

    teacher = TeacherFile(path=file, image_size=8, output_layer=probs)
    answers = open_teacher_file(teacher, ["cat", "dog"]).outputs(IMAGES)
    np.testing.assert_allclose(answers, open_model(file, output=probs).predict(IMAGES))


def test_an_onnx_model_is_cut_before_it_is_quantized(
    tmp_path: Path, file: Path, program, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file.suffix != ".onnx":
        pytest.skip("for ONNX models")
    names = outputs_of(file)
    probs = next(n for n in names if open_model(file, output=n).num_classes == 2)
    words = ["compress", "quantize", file, "--data", photo_folder, "--output-layer", probs]
    refused = program(*words)
    assert refused.code == 2
    code = refused.err.partition("python -c '")[2].partition("'")[0]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    np.testing.assert_allclose(
        open_model(tmp_path / "one.onnx").predict(IMAGES),
        open_model(file, output=probs).predict(IMAGES),
    )
