"""Kernels and channels of zeros, as pruning, dead ReLUs and new residual branches leave them."""

import keras
import numpy as np
import pytest

from compress.graph.replay import copy_model
from compress.methods import METHODS
from compress.methods.structure import Structure, inner_kernels, keep_structure
from small_models import logits_of, random_images

KERNELS = ["stem", "depthwise", "gate", "project", "hidden", "logits"]


def with_zeros(model: keras.Model, name: str, channels: slice = slice(None)) -> keras.Model:
    """A copy of the model, in which a kernel or some of its output channels are zero."""
    copy = copy_model(model)
    kernel = np.asarray(copy.get_layer(name).kernel).copy()
    if name == "depthwise":
        kernel[:, :, channels] = 0
    else:
        kernel[..., channels] = 0
    copy.get_layer(name).kernel.assign(kernel)
    return copy


@pytest.fixture(params=["depthwise", "project", "logits", "half of the channels", "all kernels"])
def model(request, tiny_model) -> keras.Model:
    if request.param == "half of the channels":
        return with_zeros(tiny_model, "project", slice(0, 4))
    model = tiny_model
    for name in KERNELS if request.param == "all kernels" else [request.param]:
        model = with_zeros(model, name)
    return model


def inner_zeros(model: keras.Model) -> float:
    """The share of zeros in the kernels that methods prune."""
    kernels = [np.ravel(layer.kernel) for _, layer in inner_kernels(model)]
    return float((np.concatenate(kernels) == 0).mean())


def finetune(images):
    """Training that keeps the structure that `cluster` makes."""

    def train(model, *, epochs, learning_rate):
        names = tuple(layer.name for _, layer in inner_kernels(model))
        keep_structure(model, Structure(clusters=names))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(learning_rate), loss)
        model.fit(images, np.arange(len(images)) % 4, epochs=epochs, verbose=0)

    return train


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_magnitude_reaches_its_sparsity(model, finetune_data, scope):
    pruned = METHODS["magnitude"](model, finetune_data=finetune_data, scope=scope, epochs=1)
    assert inner_zeros(pruned) >= 0.5 - 1 / 256  # scores rank all weights but one
    assert np.isfinite(logits_of(pruned, random_images(8, 16))).all()


def test_magnitude_lets_a_kernel_of_zeros_learn(tiny_model, finetune_data):
    model = with_zeros(tiny_model, "project")
    pruned = METHODS["magnitude"](model, finetune_data=finetune_data, scope="global", epochs=1)
    assert (np.asarray(pruned.get_layer("project").kernel) != 0).mean() == 0.5


@pytest.mark.parametrize("method", ["cluster", "channels", "qat"])
def test_other_methods_give_finite_answers(model, images, method):
    def calibration():
        return iter(images)

    arguments = {
        "cluster": {"finetune": finetune(images), "epochs": 1},
        "channels": {
            "calibration": calibration,
            "finetune": finetune(images),
            "remember": lambda find: find(),
            "keep": 0.8,
            "multiple_of": 1,
            "epochs": 1,
        },
        "qat": {"calibration": calibration, "finetune": finetune(images), "epochs": 1},
    }
    result = METHODS[method](model, **arguments[method])
    assert np.isfinite(logits_of(result, images)).all()
