"""Teachers given as files answer like the model that they hold."""

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.recipes import onnx as onnx_recipes
from compress.recipes import tflite as tflite_recipes
from compress.recipes.conversion import Conversion
from configs.artifacts import path_sha256
from configs.contract import TeacherFile
from configs.errors import UserError
from distill.labels.teacher_files import as_logits, logits_of, open_teacher_file
from small_models import random_images
from support import save_photo

CLASSES = ["cat", "dog"]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="normal")(x))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return random_images(5, 16)


@pytest.fixture(scope="module")
def files(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every form that a teacher may have."""
    folder = tmp_path_factory.mktemp("teachers")
    paths = {kind: folder / f"a.{kind}" for kind in ("keras", "onnx", "tflite")}
    model.save(paths["keras"])
    model.export(folder / "saved", verbose=False)
    conversion = Conversion(model)
    onnx_recipes.float32(conversion, paths["onnx"], output="logits")
    tflite_recipes.float32(conversion, paths["tflite"], output="logits")
    channels_first(paths["onnx"], folder / "first.onnx")
    return {**paths, "saved": folder / "saved", "channels first": folder / "first.onnx"}


def channels_first(original: Path, target: Path) -> None:
    """Write the file as PyTorch would have: its input is (batch, 3, height, width)."""
    content = onnx.load(original)
    graph, name = content.graph, content.graph.input[0].name
    image = helper.make_tensor_value_info("photo", TensorProto.FLOAT, [1, 3, 16, 16])
    transpose = helper.make_node("Transpose", ["photo"], [name], perm=[0, 2, 3, 1])
    graph.ClearField("input")
    graph.input.append(image)
    graph.node.insert(0, transpose)
    onnx.save(content, target)


@pytest.mark.parametrize("kind", ["keras", "saved", "onnx", "channels first", "tflite"])
def test_a_file_answers_like_its_model(
    files: dict[str, Path], model: keras.Model, images: np.ndarray, kind: str
) -> None:
    answers = open_teacher_file(TeacherFile(path=files[kind], image_size=16), CLASSES).outputs
    expected = np.asarray(model.predict_on_batch(images))
    # Other kernels sum in another order.
    np.testing.assert_allclose(answers(images), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["keras", "onnx", "tflite"])
def test_the_ending_of_a_file_may_be_in_capitals(
    files: dict[str, Path], images: np.ndarray, tmp_path: Path, kind: str
) -> None:
    capitals = tmp_path / f"MODEL.{kind.upper()}"
    shutil.copy(files[kind], capitals)
    expected, outputs = (
        open_teacher_file(TeacherFile(path=path, image_size=16), CLASSES).outputs(images)
        for path in (files[kind], capitals)
    )
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({}, 0, 1),
        ({"pixels": "0..1"}, 0, 255),
        ({"pixels": "-1..1"}, 127.5, 127.5),
        ({"pixels": "torch"}, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ({"mean": (100, 110, 120), "std": (50, 60, 70)}, (100, 110, 120), (50, 60, 70)),
        ({"mean": (100, 110, 120)}, (100, 110, 120), 1),
    ],
)
def test_a_file_gets_the_pixels_it_expects(
    files: dict[str, Path], model: keras.Model, images: np.ndarray, options, mean, std
) -> None:
    file = TeacherFile(path=files["keras"], image_size=16, **options)
    answers = open_teacher_file(file, CLASSES).outputs
    inputs = ((images - np.array(mean)) / np.array(std)).astype("float32")
    expected = np.asarray(model.predict_on_batch(inputs))
    np.testing.assert_allclose(answers(images), expected, atol=1e-4)


def test_a_teacher_of_blue_first_gets_blue_first(
    files: dict[str, Path], model: keras.Model, images: np.ndarray
) -> None:
    file = TeacherFile(path=files["keras"], image_size=16, pixels="caffe")
    expected = model.predict_on_batch((images - [123.68, 116.779, 103.939])[..., ::-1])
    outputs = open_teacher_file(file, CLASSES).outputs(images)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_labels_in_another_order_are_put_in_the_order_of_the_photos(
    files: dict[str, Path], model: keras.Model, images: np.ndarray
) -> None:
    file = TeacherFile(path=files["keras"], image_size=16, labels=["dog", "cat"])
    outputs = open_teacher_file(file, CLASSES).outputs(images)
    np.testing.assert_allclose(outputs, model.predict_on_batch(images)[:, ::-1], rtol=1e-5)


def test_a_layer_inside_may_answer(
    files: dict[str, Path], model: keras.Model, images: np.ndarray
) -> None:
    whole = keras.Model(model.inputs, keras.layers.Softmax(name="soft")(model.outputs[0]))
    path = files["keras"].with_name("soft.keras")
    whole.save(path)
    file = TeacherFile(path=path, image_size=16, output_layer=model.layers[-1].name)
    outputs = open_teacher_file(file, CLASSES).outputs(images)
    np.testing.assert_allclose(outputs, model.predict_on_batch(images), atol=1e-6)
    with pytest.raises(UserError, match="no layer head, which output_layer names"):
        open_teacher_file(TeacherFile(path=path, image_size=16, output_layer="head"), CLASSES)


@pytest.mark.parametrize("activation", ["linear", "softmax"])
def test_a_keras_file_returns_its_features_behind_its_logits(
    images: np.ndarray, tmp_path: Path, activation: str
) -> None:
    keras.utils.set_random_seed(3)
    pooled = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            pooled,
            keras.layers.Dense(2, activation=activation, bias_initializer="normal"),
        ]
    )
    path = tmp_path / "teacher.keras"
    model.save(path)
    file = TeacherFile(path=path, image_size=16, labels=("dog", "cat"))
    opened = open_teacher_file(file, CLASSES, "pooled")
    kind = "logits" if activation == "linear" else "probabilities"
    rows = logits_of(opened, kind)(images)
    expected = keras.Model(model.inputs, pooled.output).predict_on_batch(images)
    assert opened.num_features == 4
    np.testing.assert_allclose(rows[:, 2:], expected, atol=1e-6)
    # The head has the order of the photos' classes, as the logits have.
    assert opened.head
    logits = expected @ opened.head.kernel + opened.head.bias
    differences = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(differences, rows[:, 1] - rows[:, 0], atol=1e-4)
    alone = logits_of(open_teacher_file(file, CLASSES), kind)(images)
    np.testing.assert_allclose(rows[:, :2], alone, atol=1e-5)


def test_the_head_of_a_single_score_has_two_classes(images: np.ndarray, tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    path = tmp_path / "teacher.keras"
    model.save(path)
    opened = open_teacher_file(TeacherFile(path=path, image_size=16), CLASSES, "pooled")
    rows = logits_of(opened, "logits")(images)
    assert opened.head
    logits = rows[:, 2:] @ opened.head.kernel + opened.head.bias
    np.testing.assert_allclose(logits, rows[:, :2], rtol=1e-4, atol=1e-3)


def test_a_keras_file_without_pooling_is_refused_where_features_are_needed(
    program, photo_folder: Path, tmp_path: Path
) -> None:
    path, config, run = tmp_path / "flat.keras", tmp_path / "c.yaml", tmp_path / "run"
    keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    ).save(path)
    config.write_text(
        f"""
        data: {{path: {photo_folder}}}
        teacher: {{files: [{{path: {path}, image_size: 16}}]}}
        student: {{backbone: efficientnet_lite0, image_size: 32, epochs: 1, feature_loss: hint}}
        """
    )
    for step in ("data", "teacher"):
        outcome = program("distill", step, config, "--run", run)
        assert outcome.code == 0, outcome.err
    outcome = program("distill", "label", config, "--run", run)
    assert outcome.code == 2
    assert f"needs the features of {path}" in outcome.err
    assert not list(run.rglob("labels.npy"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tflite"], r"needs the features of the teacher, and \S+a.tflite"),
        (["onnx"], r"a.onnx returns nothing but its answers"),
        (["saved"], r"Expected the .keras file of the model"),
        (["keras", "keras"], r"needs the features of one teacher, and teacher.files names 2"),
    ],
    ids=str,
)
def test_features_of_other_files_are_refused_before_anything_is_done(
    program, files: dict[str, Path], photo_folder: Path, tmp_path: Path, names: list, message: str
) -> None:
    given = ", ".join(f"{{path: {files[name]}, image_size: 16}}" for name in names)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"""
        data: {{path: {photo_folder}}}
        teacher: {{files: [{given}]}}
        student: {{backbone: efficientnet_lite0, image_size: 64, epochs: 1, feature_loss: hint}}
        """
    )
    outcome = program("distill", "data", config, "--run", tmp_path / "run")
    assert outcome.code == 2
    assert re.search(message, outcome.err), outcome.err
    assert not list((tmp_path / "run").rglob("manifest.json"))


def test_means_of_pixels_from_0_to_1_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mean: \[123.675, 116.28, 103.53\]"):
        TeacherFile(path=tmp_path, image_size=16, mean=(0.485, 0.456, 0.406))


def test_logits_of_probabilities_have_these_probabilities() -> None:
    probs = np.array([[0.25, 0.75], [1.0, 0.0]], "float32")
    logits = as_logits(probs, "probabilities")
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, probs, atol=1e-6)


@pytest.mark.parametrize(
    ("score", "kind", "second"),
    [(0.75, "probabilities", 0.75), (np.log(3.0), "logits", 0.75), (0.0, "logits", 0.5)],
)
def test_one_score_tells_two_classes_apart(score: float, kind: str, second: float) -> None:
    logits = as_logits(np.array([[score]], "float32"), kind)
    probs = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probs, [[1 - second, second]], rtol=1e-5)


@pytest.mark.parametrize("kind", ["keras", "saved", "onnx", "tflite"])
def test_a_file_for_images_of_another_size_is_refused(files: dict[str, Path], kind: str) -> None:
    with pytest.raises(UserError, match="24 x 24 pixels"):
        open_teacher_file(TeacherFile(path=files[kind], image_size=24), CLASSES)


def test_a_teacher_of_other_classes_is_refused(files: dict[str, Path], images: np.ndarray) -> None:
    answers = open_teacher_file(
        TeacherFile(path=files["keras"], image_size=16), ["cat", "dog", "owl"]
    ).outputs
    with pytest.raises(UserError, match="answers with 2 classes, and the photos have 3"):
        answers(images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.onnx", "does not exist"),
        ("text.onnx", "no ONNX model"),
        ("text.keras", "not a Keras model"),
        ("folder", "no saved_model.pb"),
    ],
)
def test_a_path_that_is_not_a_model_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "text.keras").write_text("not a model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        open_teacher_file(TeacherFile(path=tmp_path / name, image_size=16), CLASSES)


def test_a_folder_with_another_file_has_another_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    first = path_sha256(tmp_path)
    (tmp_path / "b").write_text("")
    second = path_sha256(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    assert len({first, second, path_sha256(tmp_path)}) == 3


def test_a_run_learns_from_a_given_teacher(
    program, photo_folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    config, run = tmp_path / "given.yaml", tmp_path / "run"
    for number in range(5):
        save_photo(photo_folder / "../further/of a holiday" / f"{number}.png", seed=500 + number)
    first, saved = files["channels first"], files["saved"]
    config.write_text(
        f"""
        data: {{path: {photo_folder}, unlabelled: {photo_folder}/../further}}
        teacher:
          files:
            - {{path: {first}, image_size: 16}}
            - {{path: {saved}, image_size: 16, pixels: 0..1}}
        soft_labels: {{num_views: 2}}
        student: {{backbone: {{name: efficientnet_lite0}}, image_size: 32, epochs: 1}}
        """
    )
    for step in ("data", "teacher", "label"):
        outcome = program("distill", step, config, "--run", run)
        assert outcome.code == 0, outcome.err
    outcome = program("distill", "label", config, "--run", run, "--verify", "30", "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads((run / "data" / "manifest.json").read_text())
    labelled = json.loads(outcome.out)
    assert labelled["num_verified"] == 30
    assert labelled["examples"] == facts["num_train"] + 5
    manifest = json.loads((run / "teacher" / "manifest.json").read_text())
    assert manifest["backbone"] == "first.onnx + saved"
    assert manifest["output_kinds"] == ["logits", "logits"]
    outcome = program("distill", "student", config, "--run", run, "--set", "student.loss.name=dkd")
    assert outcome.code == 2
    assert "needs the label of every photo" in outcome.err
    config.write_text(config.read_text().replace(str(first), str(files["onnx"])))
    outcome = program("distill", "student", config, "--run", run)
    assert outcome.code == 2
    assert "the teacher step" in outcome.err  # another teacher is a miss
