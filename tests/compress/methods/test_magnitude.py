import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compress.methods import METHODS
from compress.methods.magnitude import _polynomial, global_sparsities
from compress.methods.tfmot.training import FinetuneData
from configs.errors import UserError


def zeros(model):
    """Share of zeros in every kernel of two or more dimensions, by layer name."""
    return {
        layer.name: float((layer.get_weights()[0] == 0).mean())
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense))
    }


def test_magnitude_registers_itself():
    assert "magnitude" in METHODS.names()
    assert METHODS.options("magnitude")["sparsity"] == 0.5


@pytest.mark.parametrize(
    ("option", "value"),
    [("sparsity", 1.0), ("sparsity", 0.0), ("epochs", 0), ("learning_rate", -1e-4)],
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(UserError, match=option):
        METHODS.check("magnitude", {option: value})


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_kernels_have_the_sparsity_of_the_option_except_first_last_and_depthwise(
    tiny_model, finetune_data, sparsity
):
    before = [array.copy() for array in tiny_model.get_weights()]
    pruned = METHODS["magnitude"](
        tiny_model, finetune_data=finetune_data, sparsity=sparsity, epochs=2
    )
    assert zeros(pruned) == {
        "stem": 0.0,
        "depthwise": 0.0,
        "gate": sparsity,  # 64 weights: 32 or 48 zeros, exactly
        "project": sparsity,
        "hidden": sparsity,
        "logits": 0.0,
    }
    for array, old in zip(tiny_model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_the_large_weights_of_a_kernel_remain_and_learn(tiny_model, finetune_data):
    pruned = METHODS["magnitude"](tiny_model, finetune_data=finetune_data, sparsity=0.5, epochs=1)
    old = tiny_model.get_layer("hidden").get_weights()[0]
    new = pruned.get_layer("hidden").get_weights()[0]
    remains = new != 0
    assert np.abs(old[remains]).mean() > 3 * np.abs(old[~remains]).mean()
    assert not np.array_equal(new[remains], old[remains])


def test_a_killed_run_continues_with_its_masks(tiny_model, finetune_data, tmp_path):
    class Killed(Exception):
        pass

    def die(epoch, epochs, step, steps_per_epoch, logs):
        if epoch == 1:
            raise Killed

    options = {"sparsity": 0.75, "epochs": 3}
    data = {**vars(finetune_data), "checkpoint": tmp_path / "epoch.npz"}
    with pytest.raises(Killed):
        METHODS["magnitude"](
            tiny_model, finetune_data=FinetuneData(**{**data, "progress": die}), **options
        )
    resumed = METHODS["magnitude"](tiny_model, finetune_data=FinetuneData(**data), **options)
    undisturbed = METHODS["magnitude"](tiny_model, finetune_data=finetune_data, **options)
    assert zeros(resumed)["project"] == 0.75
    # Threads may add up in another order, hence not bit for bit.
    for one, other in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 1234])
def test_the_sparsity_is_reached_at_an_update_that_prunes(num_steps):
    schedule = _polynomial(0.8, num_steps)
    pruning = [step for step in range(num_steps) if schedule(tf.constant(step))[0]]
    sparsity = float(schedule(tf.constant(pruning[-1]))[1])
    assert sparsity == pytest.approx(0.8)
    # 70 % of the way, or at most one interval (a hundredth of it) before.
    assert pruning[-1] <= 0.7 * num_steps
    assert num_steps < 4 or pruning[-1] >= 0.69 * num_steps - 1


def test_a_model_with_nothing_between_first_and_last_kernel_is_refused(finetune_data):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)]
    )
    with pytest.raises(UserError, match="nothing to prune"):
        METHODS["magnitude"](model, finetune_data=finetune_data)


def test_a_constant_schedule_prunes_at_once(tiny_model, finetune_data):
    data = FinetuneData(**{**vars(finetune_data), "steps_per_epoch": 1})
    pruned = METHODS["magnitude"](
        tiny_model, finetune_data=data, sparsity=0.75, schedule="constant", epochs=1
    )
    assert zeros(pruned)["project"] == 0.75


def test_two_of_four_neighbouring_weights_are_left(tiny_model, finetune_data):
    pruned = METHODS["magnitude"](tiny_model, finetune_data=finetune_data, pattern="2:4", epochs=1)
    hidden = np.asarray(pruned.get_layer("hidden").kernel)  # (inputs, outputs)
    num_zeros = (hidden.reshape(2, 4, 16) == 0).sum(axis=1)
    np.testing.assert_array_equal(num_zeros, 2)
    with pytest.raises(UserError, match="pattern 2:4"):
        METHODS["magnitude"](tiny_model, finetune_data=finetune_data, pattern="2:4", sparsity=0.7)


def test_global_scores_compare_a_weight_with_what_is_left_of_its_kernel():
    # Scores: 1/6, 1/5, 4/4 and, whatever its scale, 100/10200, 1e4/1e4 of the smaller kernel and
    # 1/3, 1/2, 1 of the even one.
    kernels = {
        "wide": np.array([1.0, -1.0, 2.0]),
        "steep": np.array([[10.0], [-100.0]]),
        "even": np.array([3.0, 3.0, -3.0]),
    }
    assert global_sparsities(kernels, 0.5) == {"wide": 2 / 3, "steep": 1 / 2, "even": 1 / 3}


def test_a_kernel_of_zeros_gets_the_sparsity_of_the_whole():
    kernels = {
        "zeros": np.zeros((2, 2)),
        "wide": np.array([1.0, -1.0, 2.0]),
        "steep": np.array([[10.0], [-100.0]]),
        "even": np.array([3.0, 3.0, -3.0]),
    }
    expected = {"zeros": 0.5, "wide": 2 / 3, "steep": 1 / 2, "even": 1 / 3}  # as without it
    assert global_sparsities(kernels, 0.5) == expected
    assert global_sparsities({"zeros": np.zeros((2, 2))}, 0.5) == {"zeros": 0.5}


def test_zeros_that_are_there_already_are_pruned_even_if_that_is_more_than_the_sparsity():
    kernels = {"sparse": np.array([0.0, 0.0, 0.0, 1.0]), "dense": np.array([1.0, 2.0])}
    assert global_sparsities(kernels, 0.25) == {"sparse": 0.75, "dense": 0.0}


def test_global_pruning_reaches_the_sparsity_over_all_kernels(tiny_model, finetune_data):
    pruned = METHODS["magnitude"](
        tiny_model, finetune_data=finetune_data, sparsity=0.75, scope="global", epochs=1
    )
    shares = zeros(pruned)
    assert (64 * shares["gate"] + 64 * shares["project"] + 128 * shares["hidden"]) / 256 == (
        pytest.approx(0.75, abs=0.02)
    )
    assert len({shares["gate"], shares["project"], shares["hidden"]}) > 1
