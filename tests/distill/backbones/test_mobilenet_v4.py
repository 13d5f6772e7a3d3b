"""MobileNetV4: its parameters are those of timm, and a block is what the paper says."""

import keras
import numpy as np
import pytest

from distill.backbones import BACKBONES
from small_models import logits_of
from torch_files import save_safetensors

SIZE = 32


def build(size, **options):
    return BACKBONES[f"mobilenet_v4_{size}"](image_size=SIZE, num_classes=1000, **options)


@pytest.mark.parametrize(("size", "count"), [("small", 3_774_024), ("medium", 9_715_512)])
def test_the_parameters_are_those_of_timm(size, count):
    """timm 1.0: sum(p.numel() for p in timm.create_model(name).parameters())."""
    model = build(size, weights=None)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == count


def depthwise(x, kernel, stride):
    """A depthwise convolution by definition, padded alike on all sides; x (height, width, c)."""
    half = kernel.shape[0] // 2
    padded = np.pad(x, ((half, half), (half, half), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))
    return np.einsum("hwcij,ijc->hwc", windows[::stride, ::stride], kernel[..., 0])


def test_a_block_with_strides_is_a_universal_inverted_bottleneck():
    """Depthwise, expansion and ReLU, depthwise with the strides and ReLU, projection."""
    keras.utils.set_random_seed(0)
    model = build("small", weights=None)
    before, after = model.get_layer("blocks_1_1_bn1_relu"), model.get_layer("blocks_2_0_pw_proj_bn")
    pixels = np.random.default_rng(0).uniform(0, 255, (1, SIZE, SIZE, 3)).astype("float32")
    x = logits_of(keras.Model(model.input, before.output), pixels)[0].astype("float64")

    def kernel(name):
        return model.get_layer(f"blocks_2_0_{name}_conv").get_weights()[0]

    def norm(x):  # untrained: mean 0, variance 1
        return x / np.sqrt(1 + 1e-5)

    x = norm(depthwise(x, kernel("dw_start"), 1))
    x = np.maximum(norm(x @ kernel("pw_exp")[0, 0]), 0)
    x = np.maximum(norm(depthwise(x, kernel("dw_mid"), 2)), 0)
    x = norm(x @ kernel("pw_proj")[0, 0])
    ours = logits_of(keras.Model(model.input, after.output), pixels)[0]
    np.testing.assert_allclose(ours, x, atol=1e-5 * np.abs(x).max())


def test_a_file_of_timm_is_read(tmp_path):
    keras.utils.set_random_seed(0)
    source = build("small", weights=None)
    arrays = {}
    for layer in source.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            for part, array in zip(parts, layer.get_weights(), strict=True):
                arrays[f"{timm_name(layer.name)}.{part}"] = array
        elif layer.weights and layer.name != "logits":
            order = (2, 3, 0, 1) if "dw_" in layer.name else (3, 2, 0, 1)
            kernel = layer.get_weights()[0].transpose(order)
            arrays[f"{timm_name(layer.name)}.weight"] = np.ascontiguousarray(kernel)
    kernel, bias = source.get_layer("logits").get_weights()
    arrays |= {"classifier.weight": np.ascontiguousarray(kernel.T), "classifier.bias": bias}
    path = save_safetensors(tmp_path / "timm.safetensors", arrays)
    model = build("small", weights=str(path))
    for ours, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def timm_name(name):
    """blocks_2_0_dw_start_conv -> blocks.2.0.dw_start.conv."""
    if not name.startswith("blocks_"):
        return name
    _, stage, number, *rest = name.split("_")
    if rest[0] in ("dw", "pw"):
        return f"blocks.{stage}.{number}.{rest[0]}_{rest[1]}.{rest[2]}"
    return f"blocks.{stage}.{number}.{'_'.join(rest)}"
