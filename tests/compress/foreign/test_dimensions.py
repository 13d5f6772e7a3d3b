"""A model trained under a contract scores what Keras says of it, photo by photo."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from compress import standalone
from compress.bare_files import score_files
from compress.standalone import quantize_model
from configs.contract import RANGES, InputContract, Pixels, Statement
from eval.contract.choice import ContractChoice
from eval.contract.foreign_metadata import natural_order
from eval.images import evaluation_image

SIDE = 16
COLOURS = {"1": (60, 70, 190), "2": (70, 170, 80), "10": (190, 70, 60)}
"""In natural order; in alphabetical order 10 stands before 2."""


def write_photos(folder: Path, *, wide: bool) -> Path:
    """Split folders of photos; wide ones show their colour at the left and right edges only."""
    rng = np.random.default_rng(0)
    for split, num in {"train": 30, "validation": 20, "test": 20}.items():
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(num):
                size = (SIDE, 3 * SIDE, 3) if wide else (SIDE, SIDE, 3)
                pixels = rng.integers(60, 200, size).astype("float64")
                coloured = np.array(colour) + rng.normal(0, 60, (*size[:2], 3))
                if wide:
                    pixels[:, :SIDE] = coloured[:, :SIDE]
                    pixels[:, -SIDE:] = coloured[:, -SIDE:]
                else:
                    pixels = coloured
                image = Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))
                image.save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("square"), wide=False)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("wide"), wide=True)


def seen(folder: Path, split: str, contract: InputContract) -> tuple[np.ndarray, np.ndarray]:
    """The photos of a split as the model sees them, and their class numbers in its order."""
    order = list(contract.labels or sorted(COLOURS))
    paths = [p for name in order for p in sorted((folder / split / name).iterdir())]
    images = np.stack([evaluation_image(path, (SIDE, SIDE), contract) for path in paths])
    return contract.apply(images), np.array([order.index(path.parent.name) for path in paths])


def trained(folder: Path, contract: InputContract) -> keras.Model:
    """A small network that learned the photos under a contract."""
    keras.utils.set_random_seed(1)
    x, y = seen(folder, "train", contract)
    inputs = keras.Input(x.shape[1:])
    # Scaled to about 1, so that every range is learned equally fast.
    scaled = layers.Conv2D(8, 3, strides=2, name="stem")(inputs)
    normed = layers.BatchNormalization()(scaled)
    pooled = layers.GlobalAveragePooling2D()(layers.Activation("relu")(normed))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(pooled))
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=40, batch_size=30, verbose=0)
    return model


def top1_of(model: keras.Model, folder: Path, contract: InputContract) -> float:
    x, y = seen(folder, "test", contract)
    return float((model.predict(x, verbose=0).argmax(axis=1) == y).mean())


def tflite_of(model: keras.Model, path: Path) -> Path:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    path.write_bytes(converter.convert())
    return path


def row_of(file: Path, data: Path, choice: ContractChoice) -> float:
    (row,) = score_files([file], data=data, choice=choice)
    return float(row["accuracy"]["top1"])


NATURAL = tuple(natural_order(list(COLOURS)))
BY_HAND = {
    "0..1": ("square", InputContract(pixels=RANGES["0..1"])),
    "-1..1": ("square", InputContract(pixels=RANGES["-1..1"])),
    "torch": ("square", InputContract(pixels=RANGES["torch"])),
    "caffe": ("square", InputContract(pixels=RANGES["caffe"], channels="bgr")),
    "bgr": ("square", InputContract(channels="bgr")),
    "stretch": ("wide", InputContract(fit="stretch")),
    "pad": ("wide", InputContract(fit="pad")),
    "natural labels": ("square", InputContract(labels=NATURAL)),
    "two at once": ("wide", InputContract(fit="stretch", pixels=RANGES["0..1"])),
    "other means": ("square", InputContract(pixels=Pixels((90, 100, 110), (40, 50, 60)))),
    "nearest": ("wide", InputContract(fit="stretch", interpolation="nearest")),
}
"""The last two are not found by a trial; their users have to say so."""
IS_FOUND = [name for name in BY_HAND if name not in ("other means", "nearest")]


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_HAND)
def test_a_contract_is_followed_found_and_missed_aloud(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warnings: list[str],
) -> None:
    monkeypatch.setattr(standalone, "NUM_RUNS", 10)
    fixture, contract = BY_HAND[name]
    data = request.getfixturevalue(fixture)
    model = trained(data, contract)
    right = top1_of(model, data, contract)
    assert right > 0.8, "the model did not learn, so the test would show nothing"
    model.save(tmp_path / "net.keras")
    file = tflite_of(model, tmp_path / "foreign.tflite")

    said = ContractChoice(
        Statement(
            pixels=contract.pixels,
            channels=contract.channels,
            fit=contract.fit,
            interpolation=contract.interpolation,
            labels=contract.labels,
        )
    )
    automatic = ContractChoice(automatic=True)
    assert row_of(file, data, said) == right
    made = quantize_model(
        tmp_path / "net.keras",
        data=data,
        recipes=["float32"],
        out=tmp_path / "said",
        budget=None,
        contract=said,
    )
    assert made.rows[0]["accuracy"]["top1"] == right
    # The written file carries its contract: asked without an option it says the same.
    assert row_of(tmp_path / "said" / "net-float32.tflite", data, ContractChoice()) == right
    assert warnings == []
    if name in IS_FOUND:
        assert row_of(file, data, automatic) == right
        made = quantize_model(
            tmp_path / "net.keras",
            data=data,
            recipes=["float32"],
            out=tmp_path / "auto",
            budget=None,
            contract=automatic,
        )
        assert made.rows[0]["accuracy"]["top1"] == right
    assert warnings == []

    top1 = row_of(file, data, ContractChoice())
    assert warnings or top1 >= right - 0.05, f"{top1} instead of {right}, and not a word"
