"""Networks of Keras Applications: preprocessing, files, widths and sizes."""

import importlib
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from configs.errors import UserError
from configs.run_dir import RunDir
from distill.backbones import BACKBONES
from distill.backbones.applications import FAMILIES
from distill.backbones.flat import counted_from_zero
from distill.model_file import load_model, save_model
from small_models import logits_of

PREPROCESSING = {
    "mobilenet": "mobilenet",
    "mobilenet_v2": "mobilenet_v2",
    "resnet50": "resnet",
    "resnet50_v2": "resnet_v2",
    "vgg16": "vgg16",
    "xception": "xception",
    "inception_v3": "inception_v3",
    "inception_resnet_v2": "inception_resnet_v2",
    "densenet121": "densenet",
    "nasnet_mobile": "nasnet",
}
"""The module whose `preprocess_input` belongs to a network."""
INSIDE = ("mobilenet_v3_small", "convnext_tiny", "efficientnet_v2_b0", "efficientnet_v2_s")
"""Networks that Keras builds with their preprocessing inside."""
ROWS = {name: row for rows in FAMILIES.values() for name, row in rows.items()}


def small(name, **options):
    size = BACKBONES.facts(name)["smallest_image"]
    return BACKBONES[name](image_size=size, num_classes=3, **options)


def features_of(model):
    return keras.Model(model.input, model.get_layer("logits").input)


def pixels_for(size):
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype("float32")


def reference(name, size, **options):
    """The network as Keras Applications build it."""
    keras.utils.set_random_seed(1)
    row = ROWS[name]
    model = getattr(keras.applications, row.constructor)(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg", **options
    )
    for layer in model.layers:  # an untrained network hides differences: every mean is 0
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(
                np.random.default_rng(3).normal(0, 0.1, layer.moving_mean.shape)
            )
    return model


def legacy_file(model, path):
    """A file as Keras Applications publish them."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return path


@pytest.mark.parametrize("name", ["mobilenet", "resnet50", "vgg16", "densenet121", "inception_v3"])
def test_a_published_file_gives_the_features_of_keras_applications(name, tmp_path):
    size = ROWS[name].smallest
    theirs = reference(name, size)
    ours = small(name, weights=str(legacy_file(theirs, tmp_path / "notop.h5")))
    pixels = pixels_for(size)
    module = importlib.import_module(f"keras.applications.{PREPROCESSING[name]}")
    expected = logits_of(theirs, module.preprocess_input(pixels.copy()))
    # float32 rounding; a channel in the wrong place makes differences of a tenth.
    np.testing.assert_allclose(
        logits_of(features_of(ours), pixels), expected, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("name", INSIDE)
def test_networks_with_their_own_preprocessing_give_the_same_features(name, tmp_path):
    size = ROWS[name].smallest
    theirs = reference(name, size)
    ours = small(name, weights=str(legacy_file(theirs, tmp_path / "notop.h5")))
    pixels = pixels_for(size)
    expected = logits_of(theirs, pixels)
    np.testing.assert_allclose(
        logits_of(features_of(ours), pixels), expected, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("name", PREPROCESSING)
def test_pixels_are_scaled_as_preprocess_input_scales_them(name):
    size = 75
    model = BACKBONES[name](image_size=size, num_classes=2, weights=None)
    pixels = pixels_for(size)
    scaled = logits_of(keras.Model(model.input, model.get_layer("pixels").output), pixels)
    module = importlib.import_module(f"keras.applications.{PREPROCESSING[name]}")
    expected = module.preprocess_input(pixels.copy())
    if name in ("resnet50", "vgg16"):  # their kernels are turned instead
        expected = expected[..., ::-1]
    np.testing.assert_allclose(scaled, expected, atol=1e-4)


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
@pytest.mark.parametrize("name", ["vgg16", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_own_files_and_files_of_keras_applications_are_told_apart(name, ending, tmp_path):
    size = ROWS[name].smallest
    theirs = reference(name, size)
    path = tmp_path / f"theirs{ending}"
    theirs.save(path) if ending == ".keras" else theirs.save_weights(path)
    ours = small(name, weights=str(path))
    own_path = tmp_path / f"ours{ending}"
    ours.save(own_path) if ending == ".keras" else ours.save_weights(own_path)
    again = small(name, weights=str(own_path))
    pixels = pixels_for(size)
    module = importlib.import_module(f"keras.applications.{PREPROCESSING[name]}")
    expected = logits_of(theirs, module.preprocess_input(pixels.copy()))
    for model in (ours, again):
        np.testing.assert_allclose(
            logits_of(features_of(model), pixels), expected, atol=1e-4 * np.abs(expected).max()
        )
    np.testing.assert_array_equal(ours.get_weights()[-2], again.get_weights()[-2])


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_v2_b0"])
def test_width_makes_a_smaller_network(name):
    full, narrow = (small(name, weights=None, width=width) for width in (1.0, 0.75))
    assert 0.5 < narrow.count_params() / full.count_params() < 0.85


def test_a_width_without_published_weights_is_refused_by_name():
    message = r"mobilenet_v2 with width 0\.6 \(there are 0\.35, 0\.5, 0\.75, 1, 1\.3, 1\.4\).*null"
    with pytest.raises(UserError, match=message):
        BACKBONES.check("mobilenet_v2", {"width": 0.6})
    assert BACKBONES.check("mobilenet_v2", {"width": 0.6, "weights": None})["width"] == 0.6
    assert BACKBONES.check("mobilenet_v2", {"width": 0.75})["weights"] == "imagenet"


def test_a_width_that_changes_nothing_is_not_stored():
    """The steps of runs from before there was a width have the same inputs as ever."""
    for options in ({}, {"width": 1.0}):
        assert "width" not in BACKBONES.check("efficientnet_b0", options)


@pytest.mark.parametrize("name", ["vgg16", "convnext_tiny"])
def test_a_network_without_batchnorm_has_no_option_for_it(name):
    with pytest.raises(UserError, match="no option batchnorm_momentum"):
        BACKBONES.check(name, {"batchnorm_momentum": 0.9})


def test_convnext_is_flat_and_survives_saving(tmp_path):
    model = small("convnext_tiny", weights=None)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    pixels = pixels_for(32)
    np.testing.assert_allclose(logits_of(again, pixels), logits_of(model, pixels), atol=1e-6)


@pytest.mark.parametrize(("name", "smallest"), [("xception", 71), ("inception_v3", 75)])
def test_an_image_too_small_is_refused(name, smallest):
    with pytest.raises(UserError, match=f"{name} needs {smallest} or more"):
        BACKBONES[name](image_size=64, num_classes=2, weights=None)


def test_mobilenet_v3_has_layers_only(tmp_path):
    """Operations that are no layers would keep the tools for graphs from pruning it."""
    model = small("mobilenet_v3_small", weights=None)
    graph_names = {operation.name for operation in model.operations}
    assert graph_names == {layer.name for layer in model.layers}
    gates = [layer for layer in model.layers if getattr(layer, "activation", None)]
    assert keras.activations.hard_sigmoid in [layer.activation for layer in gates]


def test_what_was_built_before_does_not_change_the_names_of_layers() -> None:
    # A run that is killed and goes on builds other networks before than one without a pause.
    models = [small("mobilenet_v3_small", width=0.25, weights=None) for _ in range(2)]
    names, others = ([layer.name for layer in model.layers] for model in models)
    assert names == others
    assert {"activation", "activation_1", "re_lu"} <= set(names)


def test_a_counted_layer_does_not_get_the_name_of_another_one() -> None:
    image = keras.Input((8,), name="image")
    x = keras.layers.Dense(8, name="re_lu_1")(image)  # called like a layer of another kind
    for number in (7, 9, 8):
        x = keras.layers.ReLU(name=f"re_lu_{number}")(x)
    model = counted_from_zero(keras.Model(image, x))
    assert [layer.name for layer in model.layers] == [
        "image",
        "re_lu_1",
        "re_lu",
        "re_lu_3",
        "re_lu_2",
    ]


@pytest.mark.slow
def test_what_was_built_before_does_not_change_a_file(tmp_path: Path) -> None:
    models, files = [], []
    for name in ("first", "second"):
        models.append(small("mobilenet_v3_small", width=0.25, weights=None))
        models[-1].set_weights(models[0].get_weights())
        run = RunDir(tmp_path / name)
        save_model(run, "student", models[-1])
        saved = load_model(run.model("student"))
        files.append(tmp_path / f"{name}.tflite")
        RECIPES["tflite.float32"](Conversion(saved), files[-1], output="probabilities")
    assert files[0].read_bytes() == files[1].read_bytes()
