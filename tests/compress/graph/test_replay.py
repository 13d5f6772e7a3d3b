import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.replay import copy_layer, copy_model, named_layers, rebuild_model, replay
from configs.errors import UserError
from small_models import classifier


def test_a_copy_computes_the_same_and_shares_nothing():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).uniform(0, 9, (32, 8, 8, 3)).astype("float32"))
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), normalization, layers.Flatten(), layers.Dense(2, trainable=False)]
    )
    before = model(np.ones((1, 8, 8, 3))).numpy()
    copy = copy_model(model)
    np.testing.assert_array_equal(copy(np.ones((1, 8, 8, 3))), before)
    assert not copy.layers[-1].trainable
    copy.layers[-1].set_weights([np.zeros((192, 2)), np.zeros(2)])
    np.testing.assert_array_equal(model(np.ones((1, 8, 8, 3))), before)


def nested() -> keras.Model:
    pixels = keras.Input((8, 8, 3))
    return keras.Model(pixels, classifier(layers.Dense(2, name="scores"))(pixels), name="outer")


def test_layers_of_nested_models_are_named_by_their_way() -> None:
    names = [name.split(".")[-1] for name, _ in named_layers(nested())]
    assert names[-1] == "scores"
    assert all("." in name for name, layer in named_layers(nested()) if layer.name == "scores")


def test_stand_ins_replace_layers_of_nested_models() -> None:
    model = nested()
    images = np.ones((1, 8, 8, 3), "float32")

    def stand_in(layer):
        return (lambda x: 2 * layer(x)) if layer.name == "scores" else layer

    expected = 2 * np.asarray(model(images))
    np.testing.assert_allclose(replay(model, images, stand_in), expected, rtol=1e-6)
    rebuilt = rebuild_model(model, stand_in, before=lambda image: 0 * image)
    np.testing.assert_array_equal(rebuilt(images), 2 * np.asarray(model(0 * images)))


def test_a_model_without_a_graph_is_refused() -> None:
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UserError, match="has no graph of layers"):
        replay(Subclassed(), np.ones((1, 2)), lambda layer: layer)


def test_a_copied_layer_has_the_weights_and_other_settings() -> None:
    layer = classifier(layers.Dense(2, activation="softmax", name="scores")).get_layer("scores")
    copy = copy_layer(layer, activation="linear")
    assert copy.activation is keras.activations.linear
    np.testing.assert_array_equal(copy.kernel, layer.kernel)
    assert copy.kernel is not layer.kernel
