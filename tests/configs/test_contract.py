"""The input contract: who states what, and what an image becomes."""

import numpy as np
import pytest

from configs.contract import (
    OWN_CONTRACT,
    RANGES,
    InputContract,
    Pixels,
    Statement,
    from_unit_range,
    settled,
)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("0..255", [0, 51, 255]),
        ("0..1", [0, 0.2, 1]),
        ("-1..1", [-1, -0.6, 1]),
        ("torch", [-123.675 / 58.395, (51 - 116.28) / 57.12, (255 - 103.53) / 57.375]),
    ],
)
def test_ranges_of_foreign_models(name: str, values: list[float]) -> None:
    image = np.array([[[0, 51, 255]]], "uint8")
    scaled = RANGES[name].apply(image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[0, 0], values, atol=1e-6)


def test_caffe_is_what_keras_preprocess_input_makes() -> None:
    from keras.applications.imagenet_utils import preprocess_input

    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype("float32")
    contract = InputContract(pixels=RANGES["caffe"], channels="bgr")
    expected = preprocess_input(images.copy(), mode="caffe")
    np.testing.assert_allclose(contract.apply(images), expected, atol=1e-4)
    torch = InputContract(pixels=RANGES["torch"])
    expected = preprocess_input(images.copy(), mode="torch")
    np.testing.assert_allclose(torch.apply(images), expected, atol=1e-5)


def test_a_grey_image_keeps_one_channel() -> None:
    contract = InputContract(pixels=RANGES["-1..1"], channels="grey")
    assert contract.apply(np.array([[[255]]], "uint8")).tolist() == [[[1.0]]]


def test_the_first_party_that_states_a_field_decides_it() -> None:
    contract = settled(
        ("options", Statement(fit="stretch")),
        ("metadata", Statement(fit="pad", pixels=RANGES["0..1"], labels=("b", "a"))),
        ("graph", None),
    )
    assert contract == InputContract(
        fit="stretch", pixels=RANGES["0..1"], labels=("b", "a"), answers=None
    )
    assert contract.stated_by == {"fit": "options", "pixels": "metadata", "labels": "metadata"}
    assert contract.line == "0..1, RGB, stretch, labels from metadata"
    assert OWN_CONTRACT.line == "0..255, RGB, crop, labels from the folders"


def test_what_a_trial_chose_is_marked() -> None:
    contract = InputContract().changed("auto", pixels=RANGES["caffe"], channels="bgr")
    assert contract.line == "caffe (auto), BGR (auto), crop, labels from the folders"
    assert contract.describe() == {
        "pixels": {"range": [0, 255], "mean": [123.68, 116.779, 103.939], "std": [1.0] * 3},
        "channels": "bgr",
        "stated_by": {"pixels": "auto", "channels": "auto"},
    }
    assert OWN_CONTRACT.describe() == {}


def test_behind_the_door_only_the_fit_of_photos_is_left() -> None:
    contract = InputContract(
        pixels=RANGES["caffe"], channels="bgr", fit="pad", layout="nchw", output_layer="x"
    )
    assert contract.behind_the_door() == InputContract(fit="pad")
    assert InputContract(channels="grey").behind_the_door().channels == "grey"
    said = InputContract(answers="logits", fit="pad")
    assert said.of_written_files() == InputContract(fit="pad")


@pytest.mark.parametrize(
    ("pixels", "right"),
    [
        (
            Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ),
        (Pixels((0.5,) * 3, (0.5,) * 3), Pixels((127.5,) * 3, (127.5,) * 3)),
        (Pixels((0.5,) * 3, (1.0,) * 3), Pixels((127.5,) * 3, (255.0,) * 3)),
        (Pixels((0.0,) * 3, (1.0,) * 3), None),
        (Pixels((114.0,) * 3, (1.0,) * 3), None),
        (RANGES["torch"], None),
    ],
)
def test_numbers_of_pixels_from_0_to_1_are_recognised(pixels: Pixels, right: Pixels | None) -> None:
    assert from_unit_range(pixels) == right
