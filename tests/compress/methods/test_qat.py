import keras
import numpy as np
import pytest
from keras import layers

from compress.graph.kernels import round_kernel
from compress.graph.replay import copy_model
from compress.int8.calibration import CalibratedModel
from compress.methods import METHODS
from compress.methods.qat import simulate_int8
from compress.methods.structure import Structure, keep_structure
from compress.recipes.conversion import Conversion
from compress.recipes.tflite import RECIPES
from eval.devices.probe import open_model
from small_models import logits_of, settle

HAS_KERNEL = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)


def train(model, images, *, epochs, learning_rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss)
    for _ in range(3 * epochs):
        model.train_on_batch(images, np.arange(len(images)) % 4)


@pytest.fixture(autouse=True)
def _same_dropout_in_any_order_of_tests():
    keras.utils.set_random_seed(1)


@pytest.fixture(scope="module")
def model(tiny_model, images):
    """The tiny model, trained until its answers differ, so that rounding changes them."""
    keras.utils.set_random_seed(1)
    trained = copy_model(tiny_model)
    train(trained, images, epochs=7, learning_rate=1e-2)
    return settle(trained, images)


@pytest.fixture
def finetune(images):
    return lambda model, **options: train(model, images, **options)


@pytest.fixture
def calibration(images):
    return lambda: iter(images)


def int8_logits(model, images, path):
    RECIPES["tflite.int8"](Conversion(model, lambda: iter(images)), path, output="logits")
    return open_model(path).predict(images)


def distance(logits, others):
    return np.abs(logits - others).mean()


def test_the_simulation_answers_like_the_int8_file(model, images, tmp_path):
    simulated = logits_of(simulate_int8(CalibratedModel(model, images, equalize="auto")), images)
    answered = int8_logits(model, images, tmp_path / "tiny.tflite")
    assert distance(answered, simulated) < 0.1 * distance(answered, logits_of(model, images))


def test_the_simulation_of_an_untrained_model_answers_like_its_file(tiny_model, images, tmp_path):
    # Hardly a value of an untrained model is clipped. The pixels are not whole numbers.
    model = copy_model(tiny_model)
    kernel = model.get_layer("logits").kernel
    kernel.assign(10 * kernel)
    simulated = logits_of(simulate_int8(CalibratedModel(model, images, equalize="auto")), images)
    answered = int8_logits(model, images, tmp_path / "tiny.tflite")
    assert distance(answered, simulated) < 0.5 * distance(answered, logits_of(model, images))


def test_kernels_are_trained_and_end_in_steps_of_int8(model, calibration, finetune):
    before = model.get_weights()
    trained = METHODS["qat"](
        model, calibration=calibration, finetune=finetune, epochs=1, learning_rate=1e-3
    )
    for array, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, old)
    kernels = [layer for layer in trained.layers if isinstance(layer, HAS_KERNEL)]
    assert len(kernels) == 6
    for layer in kernels:
        kernel = np.asarray(layer.kernel)
        np.testing.assert_allclose(round_kernel(layer, kernel), kernel, atol=1e-6)
        assert not np.allclose(kernel, model.get_layer(layer.name).kernel)
    assert {type(layer).__module__.split(".")[0] for layer in trained.layers} == {"keras"}


def test_without_training_only_constants_are_rounded(model, images, calibration, tmp_path):
    same = METHODS["qat"](model, calibration=calibration, finetune=lambda model, **options: None)
    prepared = CalibratedModel(model, images).model
    for layer in prepared.layers:
        if isinstance(layer, HAS_KERNEL):
            layer.kernel.assign(round_kernel(layer, layer.kernel))
    # The offset of the pixels: the means of the channels, in 255 steps from 0 to the largest.
    prepared.get_layer("input_offset").offset = [-0.6 * 170, -0.6 * 212, -0.6 * 255]
    np.testing.assert_allclose(logits_of(same, images), logits_of(prepared, images), atol=1e-4)
    same.save(tmp_path / "same.keras")
    loaded = keras.saving.load_model(tmp_path / "same.keras", compile=False)
    np.testing.assert_array_equal(logits_of(loaded, images), logits_of(same, images))


def test_the_int8_file_answers_like_the_trained_simulation(
    model, images, calibration, finetune, tmp_path
):
    simulations = []

    def recorded(model, **options):
        finetune(model, **options)
        simulations.append(model)

    trained = METHODS["qat"](
        model, calibration=calibration, finetune=recorded, epochs=2, learning_rate=1e-5
    )
    # The file has new ranges for its tensors.
    simulated = logits_of(simulations[0], images)
    answered = int8_logits(trained, images, tmp_path / "qat.tflite")
    assert distance(answered, simulated) < 0.5 * distance(answered, logits_of(trained, images))


def test_a_swish_that_is_used_twice_remains_one_layer(images, calibration):
    keras.utils.set_random_seed(1)
    swish = layers.Activation("silu", name="swish")
    pixels = keras.Input((16, 16, 3), name="image")
    x = swish(layers.Conv2D(4, 3)(layers.Rescaling(1 / 64)(pixels)))
    x = layers.GlobalAveragePooling2D()(swish(layers.Conv2D(4, 3)(x)))
    model = keras.Model(pixels, layers.Dense(3)(x))
    same = METHODS["qat"](model, calibration=calibration, finetune=lambda model, **options: None)
    assert len([layer for layer in same.layers if layer.name == "swish"]) == 1
    assert distance(logits_of(same, images), logits_of(model, images)) < 0.05


def test_zeros_and_clusters_of_a_kernel_remain(model, images, calibration, finetune):
    few = METHODS["cluster"](model, finetune=lambda model, **options: None, num_clusters=4)
    project = few.get_layer("project").kernel
    project.assign(np.where(np.abs(project) < np.median(np.abs(project)), 0, project))

    def finetune_with_structure(model, **options):
        keep_structure(model, Structure(zeros=("project",), clusters=("gate", "project", "hidden")))
        finetune(model, **options)

    trained = METHODS["qat"](
        few, calibration=calibration, finetune=finetune_with_structure, epochs=1, learning_rate=1e-4
    )
    for name in ("gate", "project", "hidden"):
        old = np.asarray(few.get_layer(name).kernel).reshape(-1, 8 if name != "hidden" else 16)
        new = np.asarray(trained.get_layer(name).kernel).reshape(old.shape)
        np.testing.assert_array_equal(new[old == 0], 0)
        for before, after in zip(old.T, new.T, strict=True):
            assert len(np.unique(after)) <= len(np.unique(before))
    assert not np.array_equal(new, old)
