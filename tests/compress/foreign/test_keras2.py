"""Models of Keras 2, as tf_keras writes them, answer in Keras 3 as they did."""

import json
import logging
import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras.src.saving.serialization_lib import SafeModeScope
from tf_keras import layers

from compress.foreign.load import load_foreign
from compress.graph.replay import copy_model, named_layers
from compress.methods.tfmot.bridge import import_tfmot
from configs.errors import UserError
from small_models import logits_of, random_images

IMAGES = random_images(4, 16)


def assert_same(path: Path, model, tolerance: float = 1e-5) -> keras.Model:
    """The loaded model, after a check that it answers as `model` does."""
    loaded = load_foreign(path)
    expected = np.asarray(model(IMAGES, training=False))
    np.testing.assert_allclose(logits_of(loaded, IMAGES), expected, rtol=1e-5, atol=tolerance)
    assert np.abs(expected - expected[0]).max() > 1e-3  # answers that depend on the photo
    return loaded


def classifier(*first, last=None) -> tf_keras.Model:
    tf_keras.utils.set_random_seed(1)
    inputs = x = tf_keras.Input((16, 16, 3))
    for call in first:
        x = call(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="swish")(x))
    return tf_keras.Model(inputs, (last or layers.Dense(3))(x))


def save(model: tf_keras.Model, path: Path) -> Path:
    model.save(path, save_format=None if path.suffix else "tf")
    return path


@pytest.mark.parametrize("name", ["net.h5", "net.hdf5", "net.keras", "saved_model"])
def test_every_container_of_keras_2_loads(tmp_path: Path, name: str) -> None:
    model = classifier(layers.Rescaling(1 / 255), layers.BatchNormalization())
    loaded = assert_same(save(model, tmp_path / name), model)
    assert any(isinstance(layer, keras.layers.Conv2D) for layer in loaded.layers)


def test_a_teachable_machine_file_loads(tmp_path: Path) -> None:
    """Sequential models of a model, and depthwise convolutions that carry `groups`."""
    tf_keras.utils.set_random_seed(1)
    inputs = tf_keras.Input((16, 16, 3))
    x = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(inputs))
    features = tf_keras.Sequential(
        [tf_keras.Model(inputs, x, name="model1"), layers.GlobalAveragePooling2D()]
    )
    head = tf_keras.Sequential([layers.Dense(9, activation="relu"), layers.Dense(3)])
    head.build((None, 3))
    model = tf_keras.Sequential([features, head])
    model.build((None, 16, 16, 3))
    path = save(model, tmp_path / "keras_model.h5")
    with h5py.File(path, "r+") as file:
        config = file.attrs["model_config"].replace(
            '"depth_multiplier": 1', '"depth_multiplier": 1, "groups": 1'
        )
        assert '"groups": 1' in config
        file.attrs["model_config"] = config
    assert_same(path, model, 1e-4)  # answers of up to a hundred


def test_initializers_of_old_versions_load(tmp_path: Path) -> None:
    model = classifier(layers.Rescaling(1 / 255))
    path = save(model, tmp_path / "old.h5")
    with h5py.File(path, "r+") as file:
        config = file.attrs["model_config"]
        file.attrs["model_config"] = config.replace(
            '"seed": null', '"seed": null, "dtype": "float32"'
        )
        del file.attrs["keras_version"]
    assert_same(path, model)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param([lambda x: x / 127.5 - 1.0], id="minus one to one"),
        pytest.param([lambda x: 1.0 - x * 0.01], id="negative"),
        pytest.param([tf_keras.applications.resnet50.preprocess_input], id="caffe"),
        pytest.param([tf_keras.applications.densenet.preprocess_input], id="torch"),
        pytest.param(
            [layers.Rescaling(1 / 255), lambda x: tf.image.resize(x, (9, 7))], id="resize"
        ),
        pytest.param(
            [layers.Rescaling(1 / 99), lambda x: tf.nn.relu6(x + 3.0) * x / 6.0, tf.nn.silu],
            id="hard swish",
        ),
        pytest.param(
            [
                layers.Rescaling(1 / 255),
                lambda x: tf.concat([x, tf.square(x)], axis=-1),
                lambda x: x[:, 1:, :-1] * tf.reduce_mean(x, axis=[1, 2], keepdims=True),
                lambda x: tf.clip_by_value(tf.transpose(x, (0, 2, 1, 3)), 0.1, 0.9),
            ],
            id="others",
        ),
    ],
)
def test_operations_of_tensorflow_are_taken_over(tmp_path: Path, first) -> None:
    model = classifier(*first)
    assert_same(save(model, tmp_path / "net.h5"), model, 1e-4)


def test_a_scaling_of_the_pixels_becomes_layers_that_int8_folds(tmp_path: Path) -> None:
    model = classifier(tf_keras.applications.mobilenet_v2.preprocess_input)
    loaded = assert_same(save(model, tmp_path / "net.h5"), model)
    scalings = [layer for layer in loaded.layers if isinstance(layer, keras.layers.Rescaling)]
    assert [(layer.scale, layer.offset) for layer in scalings] == [(1 / 127.5, 0.0), (1.0, -1.0)]


@pytest.mark.parametrize("name", [
    "elu", "exponential", "gelu", "hard_sigmoid", "mish", "relu", "selu", "sigmoid", "softmax",
    "softplus", "softsign", "swish", "tanh",
])  # fmt: skip
def test_activations_mean_what_they_meant(tmp_path: Path, name: str) -> None:
    """The hard sigmoid of Keras 3 has another slope than that of Keras 2."""
    last = layers.Dense(3, activation=name)
    model = classifier(layers.Rescaling(1 / 64, -2), layers.Activation(name), last=last)
    assert_same(save(model, tmp_path / "net.h5"), model)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: layers.LeakyReLU(0.3), id="leaky"),
        pytest.param(lambda: layers.ThresholdedReLU(0.4), id="threshold"),
        pytest.param(lambda: layers.PReLU(alpha_initializer="ones"), id="prelu"),
        pytest.param(lambda: layers.ReLU(0.5, 0.1, 0.2), id="relu"),
        pytest.param(
            lambda: layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1, 2, 3]), id="constants"
        ),
        pytest.param(lambda: layers.LayerNormalization(), id="layer norm"),
        pytest.param(lambda: layers.SeparableConv2D(5, 3), id="separable"),
        pytest.param(lambda: layers.Conv2DTranspose(5, 3, strides=2), id="transposed"),
        pytest.param(lambda: layers.UpSampling2D(2, interpolation="bilinear"), id="up"),
        pytest.param(lambda: layers.Resizing(9, 9), id="resizing"),
        pytest.param(lambda: layers.Cropping2D(((1, 2), (3, 0))), id="crop"),
        pytest.param(lambda: layers.MaxPooling2D(3, 2, "same"), id="pool"),
        pytest.param(
            lambda: layers.Conv2D(6, 3, groups=3, activation=layers.LeakyReLU(0.1)), id="groups"
        ),
        pytest.param(lambda: layers.RandomHeight(0.2), id="random height"),
        pytest.param(lambda: layers.GaussianNoise(0.5), id="noise"),
    ],
)  # fmt: skip
def test_layers_answer_as_they_did(tmp_path: Path, layer) -> None:
    model = classifier(layers.Rescaling(1 / 64, -2), layer())
    assert_same(save(model, tmp_path / "net.keras"), model)


def test_learned_statistics_of_a_normalization_survive(tmp_path: Path) -> None:
    normalization = layers.Normalization()
    normalization.adapt(random_images(8, 16) / 3)
    model = classifier(normalization)
    assert_same(save(model, tmp_path / "net.h5"), model)


def test_a_shared_layer_and_a_shared_model_stay_shared(tmp_path: Path) -> None:
    tf_keras.utils.set_random_seed(1)
    twin = tf_keras.Sequential([tf_keras.Input((16, 16, 3)), layers.Conv2D(4, 3, name="conv")])
    inputs = tf_keras.Input((16, 16, 3))
    pooled = layers.GlobalAveragePooling2D()
    both = layers.Concatenate()([pooled(twin(inputs / 255.0)), pooled(twin(1.0 - inputs / 255.0))])
    model = tf_keras.Model(inputs, layers.Dense(3, name="conv")(both))  # a name that twin has too
    loaded = assert_same(save(model, tmp_path / "net.h5"), model)
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in loaded.layers) == 1


def test_attention_reads_two_tensors(tmp_path: Path) -> None:
    def attend(x):
        tokens = layers.Reshape((-1, 3))(layers.Resizing(4, 4)(x) / 255.0)
        return layers.Reshape((4, 4, 3))(layers.MultiHeadAttention(2, 3)(tokens, tokens * 2.0))

    model = classifier(attend)
    assert_same(save(model, tmp_path / "net.h5"), model)


@pytest.mark.parametrize("kind", ["pruned", "clustered"])
def test_wrappers_of_tfmot_are_removed_and_named(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("potstill"), "propagate", True)
    caplog.set_level("INFO")
    tfmot = import_tfmot()
    model = tf_keras.Sequential(
        [layers.Conv2D(8, 3, input_shape=(16, 16, 3)), layers.GlobalAveragePooling2D(),
         layers.Dense(3)]
    )  # fmt: skip
    if kind == "pruned":
        sparsity = tfmot.sparsity.keras.ConstantSparsity(0.5, 0)
        wrapped = tfmot.sparsity.keras.prune_low_magnitude(model, sparsity)
    else:
        start = tfmot.clustering.keras.CentroidInitialization.LINEAR
        wrapped = tfmot.clustering.keras.cluster_weights(
            model, number_of_clusters=4, cluster_centroids_init=start
        )
    loaded = assert_same(save(wrapped, tmp_path / "net.h5"), wrapped, 1e-4)
    assert {type(layer).__name__ for _, layer in named_layers(loaded)} == {
        "InputLayer", "Conv2D", "GlobalAveragePooling2D", "Dense",
    }  # fmt: skip
    assert "net.h5: removed 3 wrappers of tfmot" in caplog.text or "removed 2" in caplog.text
    assert os.environ.get("TF_USE_LEGACY_KERAS") is None


def test_a_model_that_tfmot_trained_for_int8_is_refused_by_name(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "net.h5")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["class_name"] = "QuantizeWrapperV2"
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UserError, match=r"trained for int8 by tfmot: .*QuantizeWrapperV2"):
        load_foreign(path)


def test_a_part_without_counterpart_is_named_with_a_way_out(tmp_path: Path) -> None:
    model = classifier(lambda x: tf.math.cumsum(x, axis=1))
    with pytest.raises(UserError, match=r"tf\.math\.cumsum .*\n?.*model\.save\(\"folder\"\)"):
        load_foreign(save(model, tmp_path / "net.h5"))


def test_the_graph_of_a_folder_stands_in_for_layers_that_keras_3_lacks(tmp_path: Path) -> None:
    model = classifier(lambda x: tf.math.cumsum(x / 255.0, axis=1), layers.Lambda(lambda x: x * 2))
    loaded = assert_same(save(model, tmp_path / "folder"), model)
    assert [type(layer).__name__ for layer in loaded.layers] == ["InputLayer", "OpaqueGraph"]


def test_a_lambda_of_keras_2_runs_only_when_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[bool] = []
    monkeypatch.setattr(keras.config, "enable_unsafe_deserialization", lambda: allowed.append(True))
    proof = tmp_path / "executed"
    code = f"lambda x: (open({str(proof)!r}, 'w').close(), x / 127.5 - 1)[1]"
    model = classifier(layers.Lambda(eval(code), name="halved"))
    path = save(model, tmp_path / "net.h5")
    proof.unlink()
    with pytest.raises(UserError, match=r"Lambda layer 'halved'.*--allow-lambda"):
        load_foreign(path)
    assert not proof.exists()
    loaded = load_foreign(path, allow_lambda=True)
    assert allowed == [True]
    with SafeModeScope(False):
        copied = copy_model(loaded)  # every recipe copies the model
    for made in (loaded, copied):
        np.testing.assert_allclose(
            logits_of(made, IMAGES), np.asarray(model(IMAGES)), rtol=1e-5, atol=1e-5
        )


def test_blocks_of_convnext_become_those_of_keras_3(tmp_path: Path) -> None:
    model = tf_keras.applications.convnext.ConvNeXtTiny(
        weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None
    )
    small = tf_keras.Model(
        model.input, model.get_layer("convnext_tiny_stage_0_block_0_identity").output
    )
    x = layers.GlobalAveragePooling2D()(small.output)
    net = tf_keras.Model(small.input, layers.Dense(3)(x))
    loaded = load_foreign(save(net, tmp_path / "net.h5"))
    images = random_images(2, 32)
    np.testing.assert_allclose(
        logits_of(loaded, images), np.asarray(net(images)), rtol=1e-4, atol=1e-4
    )
