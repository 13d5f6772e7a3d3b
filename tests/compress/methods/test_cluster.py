import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.rewrites import rounded_kernel
from compress.methods import METHODS
from compress.methods.cluster import clustered
from compress.methods.structure import keep_structure
from configs.errors import UserError


def stay(model, *, epochs, learning_rate):
    """Training that changes nothing."""


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
    found = clustered(kernel, 8)
    values = np.unique(found)
    assert len(values) == 8
    for value in values:
        np.testing.assert_allclose(kernel[found == value].mean(), value, rtol=1e-3, atol=1e-4)
    nearest = np.abs(kernel[..., None] - values).argmin(axis=-1)
    assert (values[nearest] == found).mean() > 0.999  # ties apart


def test_zeros_of_a_pruned_kernel_stay_beside_the_clusters():
    kernel = np.random.default_rng(1).normal(size=(64, 32)).astype("float32")
    kernel[np.abs(kernel) < 0.6] = 0
    found = clustered(kernel, 4)
    np.testing.assert_array_equal(found == 0, kernel == 0)
    assert len(np.unique(found)) == 5


def test_kernels_between_the_first_and_the_last_are_clustered(tiny_model):
    before = [array.copy() for array in tiny_model.get_weights()]
    small = METHODS["cluster"](tiny_model, finetune=stay, num_clusters=4)
    found, old = num_values(small), num_values(tiny_model)
    assert {name for name in found if found[name] == 4} == {"gate", "project", "hidden"}
    assert {name for name in found if found[name] == old[name]} == {"stem", "depthwise", "logits"}
    for array, unchanged in zip(tiny_model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, unchanged)


def test_a_model_without_such_kernels_is_refused():
    pixels = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(pixels))
    with pytest.raises(UserError, match="nothing to cluster"):
        METHODS["cluster"](keras.Model(pixels, layers.Dense(3)(x)), finetune=stay)


def test_training_keeps_zeros_and_moves_equal_weights_by_their_mean():
    values = np.array([0.0, 0.5, -0.5], "float32")
    kernel = values[np.random.default_rng(1).integers(0, 3, (6, 4))]
    layer = layers.Dense(4, use_bias=False)
    model = keras.Sequential([keras.Input((6,)), layer])
    layer.kernel.assign(kernel)
    keep_structure(model)
    inputs = np.random.default_rng(2).normal(size=(8, 6)).astype("float32")
    targets = np.random.default_rng(3).normal(size=(8, 4)).astype("float32")
    # Of the mean squared error, 2 / (8 * 4) * inputs' (inputs kernel - targets).
    gradient = inputs.T @ (inputs @ kernel - targets) / 16
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(inputs, targets)
    stepped = kernel - 0.1 * gradient
    expected = np.zeros_like(kernel)
    for value in (0.5, -0.5):
        expected[kernel == value] = stepped[kernel == value].mean()
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-4)


def test_a_sparse_kernel_learns_but_for_its_zeros():
    kernel = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
    kernel[::2] = 0
    layer = layers.Dense(4)
    model = keras.Sequential([keras.Input((6,)), layer])
    layer.kernel.assign(kernel)
    keep_structure(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(np.ones((8, 6), "float32"), np.ones((8, 4), "float32"))
    assert (np.asarray(layer.kernel)[::2] == 0).all()
    assert (np.asarray(layer.kernel)[1::2] != kernel[1::2]).all()
    assert (np.asarray(layer.bias) != 0).all()


def test_weights_that_are_equal_within_an_output_channel_stay_so():
    columns = np.random.default_rng(1).integers(1, 3, (12, 3)).astype("float32")
    kernel = columns * [1.0, 1.7, -0.3]  # as if a BatchNormalization were folded into it
    layer = layers.Dense(3)
    model = keras.Sequential([keras.Input((12,)), layer])
    layer.kernel.assign(kernel)
    keep_structure(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    inputs = np.random.default_rng(2).normal(size=(8, 12)).astype("float32")
    model.train_on_batch(inputs, np.ones((8, 3), "float32"))
    learned = np.asarray(layer.kernel)
    for column, old in zip(learned.T, columns.T, strict=True):
        assert {len(set(column[old == value].tolist())) for value in (1, 2)} == {1}
    assert len(np.unique(learned)) == 6


def test_kernels_that_were_only_rounded_have_no_structure():
    layer = layers.Dense(8)
    model = keras.Sequential([keras.Input((600,)), layer])
    kernel = np.random.default_rng(1).normal(size=(600, 8)).astype("float32")
    layer.kernel.assign(rounded_kernel(layer, kernel))
    # Many weights share each of the few steps of a channel, and some are 0.
    assert len(np.unique(layer.kernel[:, 0])) < 300
    assert (np.asarray(layer.kernel) == 0).any()
    keep_structure(model)
    assert layer.kernel.constraint is None


def test_kernels_of_half_precision_have_no_structure():
    layer = layers.Dense(100)
    model = keras.Sequential([keras.Input((1280,)), layer])
    kernel = np.random.default_rng(1).normal(size=(1280, 100)).astype("float16")
    layer.kernel.assign(kernel.astype("float32"))
    assert len(np.unique(kernel)) < 0.5 * kernel.size
    keep_structure(model)
    assert layer.kernel.constraint is None
