import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.simplify import simplify
from small_models import random_images, settle


def answers(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict_on_batch(images))


def names(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def test_pixels_that_another_layer_reads_keep_their_scaling() -> None:
    pixels = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.Concatenate()([layers.Conv2D(3, 1)(x), x])
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    images = random_images(4, 8)
    simpler = simplify(model)
    assert "Rescaling" in names(simpler)
    np.testing.assert_allclose(answers(simpler, images), answers(model, images), rtol=1e-5)


def test_a_scaling_layer_that_is_called_twice_stays() -> None:
    keras.utils.set_random_seed(1)
    scaling = layers.Rescaling(1 / 16)
    pixels = keras.Input((8, 8, 3), name="image")
    x = scaling(layers.Conv2D(3, 1)(scaling(pixels)))
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    images = random_images(4, 8)
    simpler = simplify(model)
    np.testing.assert_allclose(answers(simpler, images), answers(model, images), rtol=1e-5)


def test_nested_models_with_layers_of_one_name_are_left_as_they_are() -> None:
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 3), name="image")
    blocks = [
        keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 1, name="conv")]) for _ in "ab"
    ]
    x = layers.GlobalAveragePooling2D()(blocks[1](blocks[0](layers.Rescaling(1 / 255)(pixels))))
    model, images = keras.Model(pixels, layers.Dense(3)(x)), random_images(4, 8)
    np.testing.assert_allclose(answers(simplify(model), images), answers(model, images), rtol=1e-5)


def test_activations_become_layers_and_a_shared_kernel_stays_one() -> None:
    keras.utils.set_random_seed(1)
    shared = layers.Conv2D(3, 1, activation="relu", name="shared")
    pixels = keras.Input((8, 8, 3), name="image")
    x = layers.GlobalAveragePooling2D()(shared(shared(pixels)))
    model = keras.Model(pixels, layers.Dense(3, activation="softmax")(x))
    images = random_images(4, 8)
    simpler = simplify(model)
    np.testing.assert_allclose(answers(simpler, images), answers(model, images), rtol=1e-5)
    assert names(simpler).count("Activation") == 2
    assert names(simpler).count("Conv2D") == 1
    assert [layer.name for layer in simpler.layers if layer.name.startswith("shared")] == [
        "shared",
        "shared.activation",
    ]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "kernel",
    [
        layers.Conv2D(4, 3, strides=2, name="kernel"),
        layers.Conv2D(6, 3, groups=3, name="kernel"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="kernel"),
        layers.Dense(4, name="kernel"),
    ],
    ids=["convolution", "groups", "depthwise", "dense"],
)
def test_normalizations_move_into_the_kernels_before_them(kernel, bias) -> None:
    keras.utils.set_random_seed(1)
    kernel = type(kernel).from_config({**kernel.get_config(), "use_bias": bias})
    pixels = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization(scale=bias, name="norm")(kernel(pixels))
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    images = random_images(4, 8)
    settle(model, images)
    norm = model.get_layer("norm")
    norm.beta.assign(keras.random.normal(norm.beta.shape))
    simpler = simplify(model)
    assert "BatchNormalization" not in names(simpler)
    np.testing.assert_allclose(
        answers(simpler, images), answers(model, images), rtol=1e-4, atol=1e-5
    )


def test_a_normalization_whose_input_has_other_readers_stays() -> None:
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(3, 1)(pixels)
    x = layers.Add()([x, layers.BatchNormalization()(x)])
    x = layers.BatchNormalization()(layers.Conv2D(3, 1, activation="relu")(x))
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    images = random_images(4, 8)
    simpler = simplify(model)
    assert names(simpler).count("BatchNormalization") == 2
    np.testing.assert_allclose(answers(simpler, images), answers(model, images), rtol=1e-4)
