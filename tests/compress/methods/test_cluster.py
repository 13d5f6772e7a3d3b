import keras
import numpy as np
import pytest
from keras import layers

from compress.methods import METHODS
from compress.methods.cluster import clustered
from configs.errors import UserError


def no_training(model, *, epochs, learning_rate):
    """Leaves the model as it is."""


def num_values(model):
    return {
        layer.name: len(np.unique(layer.kernel))
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense))
    }


def test_weights_move_to_the_mean_of_their_cluster():
    kernel = np.array([[-1.0, -0.9, 0.0], [0.4, 0.5, 1.2]], "float32")
    expected = [[-0.95, -0.95, 0.0], [0.45, 0.45, 1.2]]
    np.testing.assert_allclose(clustered(kernel, 3), expected, rtol=1e-6)


def test_centroids_are_a_fixed_point_of_k_means():
    kernel = np.random.default_rng(1).normal(size=(3, 3, 8, 16)).astype("float32")
    result = clustered(kernel, 8)
    values = np.unique(result)
    assert len(values) == 8
    for value in values:
        np.testing.assert_allclose(kernel[result == value].mean(), value, rtol=1e-3, atol=1e-4)
    nearest = np.abs(kernel[..., None] - values).argmin(axis=-1)
    assert (values[nearest] == result).mean() > 0.999  # the rest are ties


def test_zeros_of_a_pruned_kernel_stay_beside_the_clusters():
    kernel = np.random.default_rng(1).normal(size=(64, 32)).astype("float32")
    kernel[np.abs(kernel) < 0.6] = 0
    result = clustered(kernel, 4)
    np.testing.assert_array_equal(result == 0, kernel == 0)
    assert len(np.unique(result)) == 5


def test_kernels_between_the_first_and_the_last_are_clustered(tiny_model):
    before = [array.copy() for array in tiny_model.get_weights()]
    small = METHODS["cluster"](tiny_model, finetune=no_training, num_clusters=4)
    new, old = num_values(small), num_values(tiny_model)
    assert {name for name in new if new[name] == 4} == {"gate", "project", "hidden"}
    assert {name for name in new if new[name] == old[name]} == {"stem", "depthwise", "logits"}
    for array, unchanged in zip(tiny_model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, unchanged)


def test_a_model_without_such_kernels_is_refused():
    pixels = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(pixels))
    with pytest.raises(UserError, match="nothing to cluster"):
        METHODS["cluster"](keras.Model(pixels, layers.Dense(3)(x)), finetune=no_training)
