"""Runs in which teacher and student learn by a strategy, in the combinations that users choose."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from configs.artifacts import read_json
from distill.backbones import BACKBONES
from distill.model_file import load_model
from support import save_photo


@pytest.fixture(autouse=True)
def few_layers() -> Iterator[None]:
    """A pretrained backbone that compiles in a second, with a model inside as users' have."""

    @BACKBONES.add
    def few_layers(*, image_size: int, num_classes: int, weights: str | None = "imagenet"):
        keras.utils.set_random_seed(5)
        inner = keras.Input((image_size, image_size, 3))
        x = inner
        for number in range(2):
            x = layers.Conv2D(8, 3, strides=4, padding="same", use_bias=False, name=f"c{number}")(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        image = keras.Input((image_size, image_size, 3))
        x = keras.Model(inner, x, name="inner")(layers.Rescaling(1 / 127.5, -1)(image))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(image, layers.Dense(num_classes, name="logits")(x))

    yield
    del BACKBONES._functions["few_layers"], BACKBONES._facts["few_layers"]


STRATEGIES = {
    "head": ("{name: head}", "{name: head, num_views: 1}"),
    "progressive": ("{name: progressive, shares: [0, 1]}", "progressive"),
    "partial": ("{name: partial, stages: 1}", "{name: partial, from_layer: c1, rate_decay: 0.5}"),
    "auto by photos": ("{name: auto, by: photos}", "{name: full, rate_decay: 0.5}"),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_both_learn_by_a_strategy(program, photo_folder: Path, tmp_path: Path, name: str) -> None:
    config, run = tmp_path / "strategies.yaml", tmp_path / "run"
    for number in range(20):
        save_photo(tmp_path / "unlabelled" / f"{number}.png", seed=2000 + number)
    of_teacher, of_student = STRATEGIES[name]
    usual = "backbone: few_layers, image_size: 32, epochs: 3, batch_size: 16, ema_momentum: 0.5"
    config.write_text(
        f"""
        data: {{path: {photo_folder}, unlabelled: {tmp_path / "unlabelled"}}}
        views: {{crop: [0.8, 1.0], mixup: 0.2}}
        teacher: {{{usual}, strategy: {of_teacher}, schedule: one_cycle}}
        soft_labels: {{num_views: 2}}
        student: {{{usual}, strategy: {of_student}, optimizer: sgd,
          labelled_share: 0.5, class_weights: balanced}}
        """
    )
    for step in ("data", "teacher", "label", "student"):
        outcome = program("distill", step, config, "--run", run)
        assert outcome.code == 0, outcome.err
    start = BACKBONES["few_layers"](image_size=32, num_classes=2)
    for model in ("teacher", "student", "control"):
        facts = read_json(run / model / "manifest.json")
        assert facts["epochs"] == 3 or model == "control"  # as many updates, with fewer photos
        assert facts["strategy"].startswith(name.split()[0] if model == "teacher" else "")
        trained = load_model(run / model / "model.keras")
        kernels = [m.get_layer("inner").get_layer("c0").kernel for m in (start, trained)]
        is_frozen = "c1" in facts["strategy"] or "stage" in facts["strategy"]
        is_frozen |= facts["strategy"].split(": ")[1].startswith("the classifier") and (
            ", then" not in facts["strategy"]
        )
        assert np.array_equal(*map(np.asarray, kernels)) == is_frozen, facts["strategy"]
    # The run directory is a target too: its settings read back as they were.
    outcome = program("distill", "student", run)
    assert outcome.code == 0, outcome.err
    assert "student: up to date" in outcome.err
