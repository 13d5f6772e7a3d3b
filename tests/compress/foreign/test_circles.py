"""Layers that wait for each other end in an error. tf_keras alone would try for ever."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tf_keras
from tf_keras import layers

from compress.foreign.load import load_foreign
from configs.errors import UserError
from small_models import logits_of, random_images


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the layers of a file, given by their names."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        edit({layer["name"]: layer for layer in config["config"]["layers"]})
        file.attrs["model_config"] = json.dumps(config)


def ladder() -> tf_keras.Model:
    """One layer that is called on its own answers, with another one between."""
    tf_keras.utils.set_random_seed(1)
    image = tf_keras.Input((8, 8, 3), name="image")
    again = layers.Conv2D(3, 3, padding="same", name="again")
    x = layers.Rescaling(1 / 255, name="scaled")(image)
    for number in range(4):
        x = layers.ReLU(name=f"relu{number}")(again(x))
    x = layers.GlobalAveragePooling2D(name="pooled")(x + again(x))
    return tf_keras.Model(image, layers.Dense(3, name="logits")(x))


def reads_its_own_answer(layer: dict[str, dict]) -> None:
    layer["relu1"]["inbound_nodes"][0][0][0] = "relu2"


def reads_a_call_that_never_comes(layer: dict[str, dict]) -> None:
    layer["logits"]["inbound_nodes"][0][0][:2] = ["again", 9]


def reads_an_output_that_does_not_exist(layer: dict[str, dict]) -> None:
    (add,) = (part for name, part in layer.items() if "add" in name)
    add["inbound_nodes"][0][3]["y"][2] = 7


@pytest.mark.parametrize(
    "damage",
    [reads_its_own_answer, reads_a_call_that_never_comes, reads_an_output_that_does_not_exist],
)
def test_a_graph_that_cannot_be_built_is_refused(tmp_path: Path, damage: Callable) -> None:
    ladder().save(path := tmp_path / "net.h5")
    change(path, damage)
    with pytest.raises(UserError, match=r"net\.h5 .*wait for each other"):
        load_foreign(path)


def test_a_circle_in_an_inner_model_is_refused(tmp_path: Path) -> None:
    image = tf_keras.Input((8, 8, 3))
    tf_keras.Model(image, ladder()(image)).save(path := tmp_path / "net.h5")

    def damage(layer: dict[str, dict]) -> None:
        (inner,) = (part for part in layer.values() if part["class_name"] == "Functional")
        reads_its_own_answer({part["name"]: part for part in inner["config"]["layers"]})

    change(path, damage)
    with pytest.raises(UserError, match="wait for each other"):
        load_foreign(path)


def test_a_layer_that_is_called_on_its_own_answers_still_loads(tmp_path: Path) -> None:
    model = ladder()
    model.save(path := tmp_path / "net.h5")
    change(path, lambda layer: None)
    images = random_images(2, 8)
    np.testing.assert_allclose(
        logits_of(load_foreign(path), images), np.asarray(model(images)), rtol=1e-5, atol=1e-5
    )
