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


def lambda_node(**node) -> dict:
    """A layer of an .h5 file of Keras 2 that runs code, under some disguise."""
    function = lambda x: open("executed", "w") and x  # noqa: E731, SIM115
    from tf_keras.src.utils import generic_utils

    code = generic_utils.func_dump(function)
    config = {
        "function": code, "function_type": "lambda", "module": "m", "output_shape": None,
        "output_shape_type": "raw", "output_shape_module": None, "arguments": {},
    }  # fmt: skip
    return {"class_name": "Lambda", **node, "config": {**config, **node.get("config", {})}}


@pytest.mark.parametrize(
    "node",
    [
        lambda_node(config={"name": "a"}),
        lambda_node(),  # a layer without a name gets one
        lambda_node(registered_name="Dense", module="keras.layers"),
        {"class_name": "TimeDistributed", "config": {"name": "t", "layer": lambda_node()}},
    ],
)
def test_a_lambda_in_disguise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: dict
) -> None:
    monkeypatch.chdir(tmp_path)
    path = keras2_file(tmp_path, node)
    with pytest.raises(UserError, match="--allow-lambda"):
        load_foreign(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "node",
    [
        {
            "class_name": "TFOpLambda",
            "config": {"name": "w", "function": "io.write_file"},
            "inbound_nodes": [["_CONSTANT_VALUE", -1, "executed", {"contents": "here"}]],
        },
        {
            "class_name": "TensorFlowOpLayer",
            "config": {"name": "w", "node_def": "", "constants": {}},
        },
    ],
)
def test_an_operation_that_is_not_known_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: dict
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="has no counterpart in Keras 3"):
        load_foreign(keras2_file(tmp_path, node))
    assert not (tmp_path / "executed").exists()


def keras2_file(folder: Path, node: dict) -> Path:
    """An .h5 file of Keras 2 with one more layer behind its input."""
    import tf_keras

    inputs = tf_keras.Input((8, 8, 3))
    model = tf_keras.Model(inputs, tf_keras.layers.GlobalAveragePooling2D()(inputs))
    path = folder / "net.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        name = config["config"]["layers"][0]["name"]
        usual = {"name": "more", "inbound_nodes": [[[name, 0, 0, {}]]]}
        config["config"]["layers"].insert(1, usual | node)
        file.attrs["model_config"] = json.dumps(config)
    return path


def test_a_model_of_a_class_of_its_own_is_told_the_way_out(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable("mine")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(keras.ops.mean(x, (1, 2)))

    model = Own()
    model(IMAGES)
    model.save(tmp_path / "own.keras")
    with pytest.raises(
        UserError, match=r"class Own, without a graph of layers\. Write a SavedModel"
    ):
        load_foreign(tmp_path / "own.keras")
    model.export(tmp_path / "folder", verbose=False)
    expected = logits_of(model, IMAGES)
    assert abs(logits_of(load_foreign(tmp_path / "folder"), IMAGES) - expected).max() < 1e-4


@pytest.mark.parametrize("activation", ["linear", "hard_sigmoid"])
def test_a_keras_2_file_with_layers_of_its_author_loads_if_keras_3_agrees(
    tmp_path: Path, source, activation: str
) -> None:
    import tf_keras

    class Plain(tf_keras.layers.Layer):
        def call(self, x):
            return x * 3.0

    inputs = tf_keras.Input((8, 8, 3))
    x = tf_keras.layers.GlobalAveragePooling2D()(Plain(name="extra")(inputs))
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(3, activation)(x))
    model.save(tmp_path / "net.h5")
    with pytest.raises(UserError, match=r"needs Plain \(as layer 'extra'\).*--import"):
        load_foreign(tmp_path / "net.h5")
    if activation == "hard_sigmoid":
        with pytest.raises(UserError, match=r"hard_sigmoid.*model\.save\(\"folder\"\)"):
            load_foreign(tmp_path / "net.h5", imports=[source[0]])
        return
    loaded = load_foreign(tmp_path / "net.h5", imports=[source[0]])
    expected = model(IMAGES).numpy()
    assert abs(logits_of(loaded, IMAGES) - expected).max() <= 1e-6 * abs(expected).max()
