"""Which zeros and equal weights training keeps, and where it is recorded that they are there."""

import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.kernels import round_kernel
from compress.methods.structure import Structure, inner_kernels, keep_structure
from compress.prune import structure_of
from configs.artifacts import write_json
from configs.records import to_json
from configs.run_dir import RunDir
from small_models import experiment_with

ZEROS = Structure(zeros=("layer",))
CLUSTERS = Structure(clusters=("layer",))
BOTH = Structure(zeros=("layer",), clusters=("layer",))


def train_one_update(kernel: np.ndarray, structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """The kernel of a Dense layer after an update that keeps its structure, and without that."""
    layer = layers.Dense(kernel.shape[1], use_bias=False, name="layer")
    model = keras.Sequential([keras.Input((kernel.shape[0],)), layer])
    layer.kernel.assign(kernel)
    keep_structure(model, structure)
    inputs = np.random.default_rng(2).normal(size=(8, kernel.shape[0])).astype("float32")
    targets = np.random.default_rng(3).normal(size=(8, kernel.shape[1])).astype("float32")
    # Gradient of the mean squared error: 2 / (8 * outputs) * inputs' (inputs kernel - targets).
    gradient = inputs.T @ (inputs @ kernel - targets) / (4 * kernel.shape[1])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(inputs, targets)
    return np.asarray(layer.kernel), kernel - 0.1 * gradient


def few_values(*values: float) -> np.ndarray:
    """A kernel of these values, (6, 4)."""
    return np.array(values, "float32")[np.random.default_rng(1).integers(0, len(values), (6, 4))]


def test_zeros_stay_and_equal_weights_move_by_their_mean():
    kernel = few_values(0.0, 0.5, -0.5)
    learned, free = train_one_update(kernel, BOTH)
    expected = np.zeros_like(kernel)
    for value in (0.5, -0.5):
        expected[kernel == value] = free[kernel == value].mean()
    np.testing.assert_allclose(learned, expected, rtol=1e-4)


def test_a_pruned_kernel_learns_except_for_its_zeros():
    kernel = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
    kernel[::2] = 0
    learned, free = train_one_update(kernel, ZEROS)
    np.testing.assert_array_equal(learned[::2], 0)
    np.testing.assert_allclose(learned[1::2], free[1::2], rtol=1e-4, atol=1e-6)


def test_clusters_of_a_kernel_with_fewer_weights_than_values_stay():
    # 24 weights with 23 values: one pair is equal.
    kernel = np.linspace(-1, 1, 24, dtype="float32").reshape(6, 4)
    kernel[0, 0] = kernel[5, 3]
    learned, free = train_one_update(kernel, CLUSTERS)
    assert learned[0, 0] == learned[5, 3]
    np.testing.assert_allclose(learned[0, 0], (free[0, 0] + free[5, 3]) / 2, rtol=1e-4)


@pytest.mark.parametrize(
    "kernel",
    [
        few_values(0.0, 0.5, -0.5),
        np.zeros((6, 4), "float32"),
        np.ones((6, 4), "float32"),
    ],
    ids=["few values", "zeros", "one value"],
)
def test_a_kernel_that_nobody_pruned_or_clustered_is_free_to_learn(kernel):
    learned, free = train_one_update(kernel, Structure())
    np.testing.assert_allclose(learned, free, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("structure", [ZEROS, CLUSTERS, BOTH])
def test_a_kernel_of_zeros_is_not_frozen(structure):
    learned, free = train_one_update(np.zeros((6, 4), "float32"), structure)
    np.testing.assert_allclose(learned, free, rtol=1e-4, atol=1e-6)
    assert (learned != 0).all()


def test_zeros_of_a_kernel_that_was_only_clustered_learn_together():
    kernel = few_values(0.0, 0.5, -0.5)
    learned, free = train_one_update(kernel, CLUSTERS)
    np.testing.assert_allclose(learned[kernel == 0], free[kernel == 0].mean(), rtol=1e-4)


def test_weights_of_a_scaled_kernel_stay_equal_within_their_output_channel():
    # As `qat` leaves a kernel of 16 values: a BatchNormalization folded in scales every channel.
    # The first two channels have one scale, so weights are equal across them, too.
    values = np.random.default_rng(1).integers(1, 17, (60, 32)).astype("float32")
    scales = np.random.default_rng(2).normal(size=32).astype("float32")
    scales[1] = scales[0]
    kernel = values * scales
    learned, free = train_one_update(kernel, CLUSTERS)
    for channel in range(32):
        for value in np.unique(values[:, channel]):
            equal = values[:, channel] == value
            np.testing.assert_allclose(
                learned[equal, channel], free[equal, channel].mean(), rtol=1e-3, atol=1e-5
            )


def test_kernels_that_were_only_rounded_have_no_structure():
    layer = layers.Dense(8)
    model = keras.Sequential([keras.Input((600,)), layer])
    kernel = np.random.default_rng(1).normal(size=(600, 8)).astype("float32")
    layer.kernel.assign(round_kernel(layer, kernel))
    # Many weights of a channel are equal, and some are 0.
    assert len(np.unique(layer.kernel[:, 0])) < 300
    assert (np.asarray(layer.kernel) == 0).any()
    keep_structure(model, Structure())
    assert layer.kernel.constraint is None


def test_inner_kernels_leave_out_the_first_the_last_and_depthwise_ones(tiny_model):
    assert [name for name, _ in inner_kernels(tiny_model)] == ["gate", "project", "hidden"]


def test_what_a_method_makes_is_added_to_what_the_model_had(tiny_model):
    inner = ("gate", "project", "hidden")
    pruned = Structure().with_kinds(("zeros",), tiny_model)
    assert pruned == Structure(zeros=inner)
    assert pruned.with_kinds((), tiny_model) == pruned
    assert pruned.with_kinds(("clusters",), tiny_model) == Structure(inner, inner)


def test_a_run_records_the_structure_and_older_runs_tell_it_by_their_methods(tiny_model, tmp_path):
    run, inner = RunDir(tmp_path), ("gate", "project", "hidden")
    experiment = experiment_with("channels", "magnitude", "cluster")
    recorded = Structure(zeros=("gate",))
    manifests = {
        "student": {},
        "channels": {},
        "channels-magnitude": {},
        "channels-magnitude-cluster": {"structure": to_json(recorded)},
    }
    for name, manifest in manifests.items():
        write_json(run.model_dir(name) / "manifest.json", manifest)
    structures = [structure_of(run, experiment, name, tiny_model) for name in manifests]
    assert structures == [Structure(), Structure(), Structure(zeros=inner), recorded]
