"""SavedModel folders without a description of their layers get layers from their graph."""

import logging
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
from small_models import kinds, logits_of, random_images

IMAGES = random_images(3, 8)
IMAGE = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")


def save(path: Path, function, **signatures) -> Path:
    module = tf.Module()
    traced = tf.function(function, input_signature=[IMAGE])
    tf.saved_model.save(module, str(path), signatures=signatures or {"serving_default": traced})
    return path


def loaded_like(path: Path, function) -> keras.Model:
    """The loaded model, after a check that it answers as `function` does."""
    loaded = load_foreign(save(path, function))
    np.testing.assert_allclose(
        logits_of(loaded, IMAGES), function(tf.constant(IMAGES)), rtol=1e-5, atol=1e-5
    )
    return loaded


def test_a_model_that_keras_exports_has_its_layers_again(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(((0, 1), (1, 0)))(layers.Rescaling(1 / 127.5, -1)(inputs))
    x = layers.Conv2D(6, 3, strides=2, groups=3, name="stem")(x)
    x = layers.Activation("swish")(layers.BatchNormalization(name="norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    gate = layers.Reshape((1, 1, 12))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(12, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Add()([layers.Multiply()([x, gate]), x])
    x = layers.Concatenate()([layers.MaxPooling2D(3, 1, "same")(x), x])
    x = layers.LeakyReLU(0.1)(layers.BatchNormalization(name="alone")(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            num = layer.gamma.shape[0]
            layer.set_weights([np.linspace(a, 2, num) for a in (0.5, -1.0, 0.1, 1.0)])
    model.export(tmp_path / "saved", verbose=False)
    loaded = load_foreign(tmp_path / "saved")
    np.testing.assert_allclose(logits_of(loaded, IMAGES), logits_of(model, IMAGES), atol=1e-5)
    np.testing.assert_array_equal(logits_of(copy_model(loaded), IMAGES), logits_of(loaded, IMAGES))
    assert image_size_of(loaded) == (8, 8)
    # Two of the three norms became a part of the kernels before them.
    assert kinds(loaded).count("BatchNormalization") == 1
    names = {layer.name for layer in loaded.layers}
    assert {"stem_1", "depthwise_1", "gate_1", "head_1"} <= names  # Keras exports such names
    assert kinds(loaded).count("Activation") == 2  # swish as one layer, and the sigmoid


def test_scalings_of_the_pixels_become_one_layer(tmp_path: Path) -> None:
    loaded = loaded_like(
        tmp_path / "plain", lambda x: tf.reduce_mean((x - [1.0, 2, 3]) * 0.5 / 255 + 1, [1, 2])
    )
    assert kinds(loaded) == ["InputLayer", "Rescaling", "GlobalAveragePooling2D"]
    assert loaded.layers[1].scale == pytest.approx(0.5 / 255)


KERNEL = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 4)), tf.float32)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: tf.nn.conv2d(x, KERNEL, 2, "SAME"), id="conv"),
        pytest.param(
            lambda x: tf.nn.conv2d(x, KERNEL, 1, [[0, 0], [1, 2], [0, 3], [0, 0]]), id="padding"
        ),
        pytest.param(lambda x: tf.nn.conv2d(x, KERNEL, 1, "VALID", dilations=2), id="dilated"),
        pytest.param(lambda x: 2.0 - tf.nn.conv2d(x, KERNEL, 1, "SAME") / 3.0, id="minus"),
        pytest.param(lambda x: -tf.nn.relu(x - 99) - tf.nn.elu(1 - x / 99), id="subtract"),
        pytest.param(lambda x: (y := x / 255) * tf.nn.relu6(y + 3.0) / 6.0, id="hard swish"),
        pytest.param(lambda x: (y := x / 99) * tf.sigmoid(y) + tf.sigmoid(y), id="shared sigmoid"),
        pytest.param(lambda x: tf.concat([x / 9, tf.tanh(x / 99)], -1), id="concat"),
        pytest.param(lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"), id="average"),
        pytest.param(lambda x: x / (1 + tf.nn.softplus(x)), id="quotient"),
        pytest.param(
            lambda x: tf.compat.v1.nn.fused_batch_norm(
                x, [1.0, 2, 3], [3.0, 2, 1], [9.0, 9, 9], [4.0, 5, 6], is_training=False
            )[0],
            id="batch norm",
        ),
        pytest.param(
            lambda x: tf.reshape(tf.expand_dims(x, 1), (tf.shape(x)[0], 4, 16, 3)),
            id="reshape",
        ),
        pytest.param(
            lambda x: x * tf.sigmoid(tf.reduce_max(x, [1, 2], keepdims=True) / 255), id="gate"
        ),
    ],
)
def test_operations_become_layers(tmp_path: Path, function) -> None:
    loaded = loaded_like(tmp_path / "saved", lambda x: tf.reduce_mean(function(x), [1, 2]))
    assert "OpaqueGraph" not in kinds(loaded)


def test_a_matrix_product_becomes_a_dense_layer(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(5, 192)).astype("float32") / 255

    def answer(x: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(x, (-1, 192))
        return tf.nn.softmax(tf.linalg.matmul(flat, weights, transpose_b=True) + tf.range(5.0))

    loaded = loaded_like(tmp_path / "saved", answer)
    assert kinds(loaded) == ["InputLayer", "Reshape", "Dense", "Activation"]


def test_other_operations_leave_the_graph_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("potstill"), "propagate", True)
    caplog.set_level("INFO")
    loaded = loaded_like(
        tmp_path / "saved", lambda x: tf.reduce_mean(tf.math.cumsum(x / 255, 1), [1, 2])
    )
    assert kinds(loaded) == ["InputLayer", "OpaqueGraph"]
    assert "saved: not all of its graph has Keras layers" in caplog.text
    assert "the operation Cumsum has no Keras layer" in caplog.text
    np.testing.assert_array_equal(logits_of(copy_model(loaded), IMAGES), logits_of(loaded, IMAGES))


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
