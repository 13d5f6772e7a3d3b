"""Code in a model file runs only if the user has named it; its name is in the error."""

import json
import sys
from pathlib import Path

import h5py
import keras
import pytest
from keras import layers

from compress.foreign.load import load_foreign
from compress.graph.replay import copy_model
from configs.errors import UserError
from small_models import classifier, logits_of, random_images

IMAGES = random_images(3, 8)

SOURCE = """
import keras
from helper import factor

class Plain(keras.layers.Layer):
    def call(self, x):
        return x * factor

@keras.saving.register_keras_serializable("mine")
class Registered(keras.layers.Layer):
    def call(self, x):
        return x + factor

def squash(x):
    return keras.ops.tanh(x) * factor
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of layers, which needs one beside it, and what it defines."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "helper.py").write_text("factor = 3.0\n")
    file = folder / f"layers_{tmp_path.name}.py".replace("[", "_").replace("]", "_")
    file.write_text(SOURCE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = dict(keras.saving.get_custom_objects())
    namespace: dict = {"__name__": file.stem}
    monkeypatch.syspath_prepend(str(folder))
    exec(compile(SOURCE, str(file), "exec"), namespace)
    monkeypatch.delitem(sys.modules, "helper")
    sys.path.remove(str(folder))
    keras.saving.get_custom_objects().clear()
    yield file, namespace
    sys.modules.pop("helper", None)
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(before)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [("Plain", "Plain"), ("Registered", "mine>Registered"), ("squash", "squash")],
)
def test_custom_code_is_named_and_then_imported(
    tmp_path: Path, source, name: str, shown: str, ending: str
) -> None:
    file, namespace = source
    custom = namespace[name]
    last = layers.Dense(3, activation=custom) if name == "squash" else layers.Dense(3)
    extra = [] if name == "squash" else [custom(name="extra")]
    model = classifier(*extra, last)
    path = tmp_path / f"net{ending}"
    model.save(path)
    with pytest.raises(UserError, match=f"{shown} .* --import my_layers.py"):
        load_foreign(path)
    loaded = load_foreign(path, imports=[file])
    assert (logits_of(loaded, IMAGES) == logits_of(model, IMAGES)).all()
    copy_model(loaded)  # every recipe copies the model


def test_a_file_of_layers_that_fails_is_named(tmp_path: Path) -> None:
    classifier(layers.Dense(3)).save(tmp_path / "net.keras")
    (tmp_path / "bad.py").write_text("import no_such_package")
    with pytest.raises(UserError, match=r"bad.py failed: ModuleNotFoundError: .*no_such_package"):
        load_foreign(tmp_path / "net.keras", imports=[tmp_path / "bad.py"])
    with pytest.raises(UserError, match=r"--import .*absent\.py: there is no such file"):
        load_foreign(tmp_path / "net.keras", imports=[tmp_path / "absent.py"])


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_lambda_runs_only_when_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, nested: bool
) -> None:
    proof = tmp_path / "executed"
    code = f"lambda x: (open({str(proof)!r}, 'w').close(), x * 2)[1]"
    layer = layers.Lambda(eval(code), name="halved")
    if nested:
        layer = keras.Sequential([keras.Input((3,)), layer], name="inner")
    model = classifier(layer, layers.Dense(3))
    path = tmp_path / f"net{ending}"
    model.save(path)
    expected = logits_of(model, IMAGES)
    proof.unlink()
    with pytest.raises(UserError, match=r"the Lambda layer 'halved'.*--allow-lambda"):
        load_foreign(path)
    assert not proof.exists()
    allowed: list[bool] = []
    from keras.src.saving import serialization_lib

    monkeypatch.setattr(keras.config, "enable_unsafe_deserialization", lambda: allowed.append(True))
    loaded = load_foreign(path, allow_lambda=True)
    assert allowed == [True]
    with serialization_lib.SafeModeScope(False):
        assert (logits_of(copy_model(loaded), IMAGES) == expected).all()


def test_layers_that_run_other_programs_are_refused_even_so(tmp_path: Path) -> None:
    classifier(layers.Dense(3)).save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1] |= {"class_name": "TorchModuleWrapper"}
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UserError, match=r"TorchModuleWrapper.* which runs a program"):
        load_foreign(tmp_path / "net.h5", allow_lambda=True)


def test_a_package_of_keras_that_is_not_installed_is_named(tmp_path: Path) -> None:
    classifier(layers.Dense(3)).save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1] |= {
            "class_name": "ResNetBackbone",
            "module": "keras_hub.src.models.resnet.resnet_backbone",
            "registered_name": "keras_hub>ResNetBackbone",
        }
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UserError, match=r"pip install keras-hub"):
        load_foreign(tmp_path / "net.h5")
