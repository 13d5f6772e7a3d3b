"""The numbers of a row are those of the model, whatever the model answers with."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from compress import standalone
from compress.standalone import quantize_model

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def write_photos(folder: Path, num_classes: int) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for name in list(COLOURS)[:num_classes]:
            (folder / split / name).mkdir(parents=True)
            for i in range(10):
                pixels = np.array(COLOURS[name]) + rng.normal(0, 60, (8, 8, 3))
                photo = Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))
                photo.save(folder / split / name / f"{i}.png")


@pytest.mark.parametrize("recipe", ["float32", "onnx.float32"])
@pytest.mark.parametrize(
    ("num_classes", "activation"),
    [(3, "linear"), (3, "softmax"), (3, "sigmoid"), (2, "linear"), (2, "sigmoid")],
)
def test_the_likelihood_of_a_file_is_that_of_the_model(
    num_classes: int, activation: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes come as a single score."""
    monkeypatch.setattr(standalone, "NUM_RUNS", 10)
    write_photos(tmp_path / "photos", num_classes)
    # The channels are red, green and blue. A class gets a high score where its colour dominates.
    kernel = (
        np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * 2 if num_classes == 3 else [[0], [2], [-2]]
    )
    inputs = keras.Input((8, 8, 3))
    mean = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 64)(inputs))
    head = layers.Dense(np.shape(kernel)[1], activation=activation)
    model = keras.Model(inputs, head(mean))
    head.set_weights([np.array(kernel, "float32"), np.full(len(kernel[0]), 0.3, "float32")])
    model.save(tmp_path / "net.keras")
    made = quantize_model(
        tmp_path / "net.keras", data=tmp_path / "photos", recipes=[recipe], out=None, budget=None
    )
    paths = sorted((tmp_path / "photos" / "test").rglob("*.png"))
    labels = np.repeat(np.arange(num_classes), 10)
    answers = model.predict(np.stack([np.asarray(Image.open(p)) for p in paths]), verbose=0)
    if activation == "linear":
        powers = np.exp(np.hstack([0 * answers, answers]) if num_classes == 2 else answers)
        probs = powers / powers.sum(axis=1, keepdims=True)
    else:
        probs = np.hstack([1 - answers, answers]) if num_classes == 2 else answers
        probs /= probs.sum(axis=1, keepdims=True)
    likelihood = -np.log(probs[np.arange(len(labels)), labels]).mean()
    assert made.rows[0]["accuracy"]["nll"] == pytest.approx(likelihood, abs=1e-3)
    assert made.rows[0]["accuracy"]["agreement_with_source"] == 1.0
