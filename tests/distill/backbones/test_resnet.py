"""ResNet-18 and 34 of torchvision: against a forward pass in numpy, and from files of PyTorch."""

import io
import json
import pickle
import struct
import zipfile

import keras
import numpy as np
import pytest

from configs.errors import UserError
from distill.backbones import BACKBONES
from distill.backbones.ported.resnet import BLOCKS, FILTERS
from distill.backbones.weights.torch_file import read_torch_weights
from small_models import logits_of
from torch_files import NEW_STATE_DICT, counts, number, save_safetensors, save_zip, text

SIZE = 40
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def state_dict(blocks, num_classes=3):
    """Random arrays by the names of torchvision."""
    rng = np.random.default_rng(0)
    arrays = {}

    def conv(name, out, inputs, size):
        scale = 1 / np.sqrt(inputs * size * size)
        arrays[f"{name}.weight"] = rng.normal(0, scale, (out, inputs, size, size))

    def norm(name, channels):
        arrays[f"{name}.weight"] = rng.uniform(0.5, 1.5, channels)
        arrays[f"{name}.bias"] = rng.normal(0, 0.1, channels)
        arrays[f"{name}.running_mean"] = rng.normal(0, 0.1, channels)
        arrays[f"{name}.running_var"] = rng.uniform(0.5, 1.5, channels)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, (out, repeats) in enumerate(zip(FILTERS, blocks, strict=True), start=1):
        for block in range(repeats):
            name = f"layer{stage}.{block}"
            conv(f"{name}.conv1", out, inputs, 3)
            norm(f"{name}.bn1", out)
            conv(f"{name}.conv2", out, out, 3)
            norm(f"{name}.bn2", out)
            if block == 0 and stage > 1:
                conv(f"{name}.downsample.0", out, inputs, 1)
                norm(f"{name}.downsample.1", out)
            inputs = out
    arrays["fc.weight"] = rng.normal(0, 0.05, (num_classes, 512))
    arrays["fc.bias"] = rng.normal(0, 0.05, num_classes)
    return {name: array.astype("float32") for name, array in arrays.items()}


def convolve(x, kernel, stride, padding):
    """A convolution by definition; x (batch, channels, height, width), as PyTorch has it."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], kernel, optimize=True)


def forward(arrays, blocks, pixels):
    """The network of torchvision in numpy, from its source: torchvision/models/resnet.py."""

    def norm(x, name):
        weight, bias, mean, var = (
            arrays[f"{name}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def conv(x, name, stride, padding):
        return convolve(x, arrays[f"{name}.weight"], stride, padding)

    x = ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    x = np.maximum(norm(conv(x, "conv1", 2, 3), "bn1"), 0)
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    x = x.max(axis=(-1, -2))
    for stage, repeats in enumerate(blocks, start=1):
        for block in range(repeats):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            y = np.maximum(norm(conv(x, f"{name}.conv1", stride, 1), f"{name}.bn1"), 0)
            y = norm(conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in arrays:
                x = norm(conv(x, f"{name}.downsample.0", stride, 0), f"{name}.downsample.1")
            x = np.maximum(x + y, 0)
    return x.mean(axis=(2, 3)) @ arrays["fc.weight"].T + arrays["fc.bias"]


@pytest.fixture(scope="module")
def arrays():
    return state_dict(BLOCKS["resnet18"])


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32")


@pytest.mark.parametrize("save", [save_safetensors, save_zip])
def test_resnet18_answers_as_torchvision_does(save, arrays, pixels, tmp_path):
    path = save(tmp_path / ("w.safetensors" if save is save_safetensors else "w.pth"), arrays)
    model = BACKBONES["resnet18"](image_size=SIZE, num_classes=3, weights=str(path))
    expected = forward(arrays, BLOCKS["resnet18"], pixels.astype("float64"))
    # float32 through 20 layers; a pixel of wrong padding changes the first digit.
    np.testing.assert_allclose(
        logits_of(model, pixels), expected, atol=1e-4 * np.abs(expected).max()
    )


def test_resnet34_has_the_parameters_of_torchvision():
    model = BACKBONES["resnet34"](image_size=SIZE, num_classes=1000, weights=None)
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == 21_797_672  # torchvision.models.resnet34


def test_another_number_of_classes_starts_a_new_classifier(arrays, tmp_path):
    path = save_safetensors(tmp_path / "w.safetensors", arrays)
    model = BACKBONES["resnet18"](image_size=SIZE, num_classes=7, weights=str(path))
    assert model.output.shape == (None, 7)


def test_weights_of_another_network_are_refused(arrays, tmp_path):
    path = save_safetensors(tmp_path / "w.safetensors", arrays)
    with pytest.raises(UserError, match=r"do not fit resnet34: it has no arrays layer1\.2\.conv1"):
        BACKBONES["resnet34"](image_size=SIZE, num_classes=3, weights=str(path))
    more = {**arrays, "layer5.0.conv1.weight": arrays["conv1.weight"]}
    path = save_safetensors(tmp_path / "more.safetensors", more)
    with pytest.raises(UserError, match=r"it also has layer5\.0\.conv1\.weight"):
        BACKBONES["resnet18"](image_size=SIZE, num_classes=3, weights=str(path))


def test_a_checkpoint_of_a_training_holds_its_network(tmp_path):
    array = np.arange(6, dtype="float32").reshape(2, 3)
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += number(6) + b"t" + b"Q"
    arguments = b"(" + storage + number(0) + counts((2, 3)) + counts((3, 1))
    arguments += b"\x89" + NEW_STATE_DICT + b"t"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    state = NEW_STATE_DICT + text("module.fc.weight") + tensor + b"s"
    body = b"}" + text("state_dict") + state + b"s" + text("epoch") + number(3) + b"s"
    path = save_zip(tmp_path / "checkpoint.pth", {"ignored": array}, body=body)
    read = read_torch_weights(path)
    assert list(read) == ["fc.weight"]
    np.testing.assert_array_equal(read["fc.weight"], array)


def test_a_zip_that_asks_for_code_is_refused_and_does_not_run(tmp_path):
    victim = tmp_path / "victim"
    body = b"cposix\nsystem\n(" + text(f"touch {victim}") + b"tR0" + NEW_STATE_DICT
    path = save_zip(tmp_path / "w.pth", {}, body=body)
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        read_torch_weights(path)
    assert not victim.exists()


def test_a_member_larger_than_its_tensor_is_not_unpacked(tmp_path):
    array = np.zeros(4, "float32")
    path = save_zip(tmp_path / "w.pth", {"a": array})
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            bomb = bytes(10**7) if name.endswith("/data/0") else old.read(name)
            new.writestr(name, bomb)
    path.write_bytes(content.getvalue())
    with pytest.raises(UserError, match="data/0 is too large"):
        read_torch_weights(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_truncated_file_is_refused(share, ending, tmp_path):
    save = save_safetensors if ending == "safetensors" else save_zip
    path = save(tmp_path / f"w.{ending}", {"a": np.zeros(1000, "float32")})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="is not a PyTorch weights file, or is damaged"):
        read_torch_weights(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [300], "data_offsets": [0, 1200]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]},
        {"dtype": "X", "shape": [2], "data_offsets": [0, 8]},
        {"shape": [2]},
        3,
    ],
)
def test_a_header_that_lies_is_refused(facts, tmp_path):
    header = json.dumps({"a": facts}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match="is not a PyTorch weights file, or is damaged"):
        read_torch_weights(path)


def test_bfloat16_becomes_float32(tmp_path):
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "w.safetensors"
    # 1.0 is 0x3f80, -2.5 is 0xc020 in bfloat16.
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<HH", 0x3F80, 0xC020))
    np.testing.assert_array_equal(read_torch_weights(path)["a"], [1.0, -2.5])


def test_an_unknown_ending_is_refused_by_the_config():
    with pytest.raises(UserError, match=r"Or a path ending in \.pth, \.pt, \.safetensors"):
        BACKBONES.check("resnet18", {"weights": "w.bin"})


def test_the_network_is_flat_and_reloads(pixels, tmp_path):
    model = BACKBONES["resnet18"](image_size=SIZE, num_classes=3, weights=None)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(logits_of(again, pixels), logits_of(model, pixels), atol=1e-5)
    own = BACKBONES["resnet18"](
        image_size=SIZE, num_classes=3, weights=str(tmp_path / "model.keras")
    )
    np.testing.assert_allclose(logits_of(own, pixels), logits_of(model, pixels), atol=1e-5)


def test_pickle_bytes_of_this_file_are_a_pickle():
    """The opcodes that these tests write are those of a pickle with a state dict."""
    assert pickle.loads(b"\x80\x02" + NEW_STATE_DICT + b".") == {}
