"""Models of Keras 3 and Keras 2, and SavedModel folders."""

import base64
import contextlib
import io
import json
import marshal
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from fuzz.harness import Kind
from fuzz.mutations import as_json, mutated_bytes, mutated_json, mutated_message
from support import save_photo

SIDE = 8


def _code(x: Any) -> Any:
    return (open("canary", "w"), x)[1]


CODE = base64.b64encode(marshal.dumps(_code.__code__)).decode()
LAMBDA = {"code": CODE, "defaults": None, "closure": None}


def _named(module: str, name: str, config: Any = None) -> dict[str, Any]:
    return {
        "module": module, "class_name": name, "config": {} if config is None else config,
        "registered_name": name,
    }  # fmt: skip


HOSTILE_PARTS = (
    _named("keras.layers", "Lambda", {"name": "l", "function": _named("", "__lambda__", LAMBDA)}),
    {"class_name": "Lambda", "config": {"name": "l", "function": [CODE, None, None],
                                        "function_type": "lambda"}},
    _named("", "__lambda__", LAMBDA),
    _named("builtins", "function", "eval"),
    _named("builtins", "eval", "open('canary', 'w')"),
    _named("os", "function", "system"),
    _named("os", "system", "touch canary"),
    _named("posix", "system", {"command": "touch canary"}),
    _named("keras.utils", "function", "get_file"),
    _named("keras.src.utils.file_utils", "get_file", {"origin": "http://127.0.0.1:9/x"}),
    _named("keras.layers", "TFSMLayer", {"filepath": "/nowhere", "name": "t"}),
    _named("keras.layers", "TorchModuleWrapper", {"module": CODE, "name": "t"}),
    _named("keras.layers", "StringLookup", {"vocabulary": "/etc/hostname", "name": "s"}),
    _named("keras.layers", "StringLookup", {"vocabulary": "http://127.0.0.1:9/x", "name": "s"}),
    _named("keras.models", "Functional", {"name": "f", "layers": []}),
    _named("fuzz.kinds", "KINDS"),
    {"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}},
    {"class_name": "__tensor__", "config": {"value": [[1], [1, 2]], "dtype": "x"}},
    {"class_name": "__bytes__", "config": {"value": 3}},
    {"class_name": "__slice__", "config": {"value": [0, 1, "x"]}},
    {"class_name": "__typespec__", "spec_name": "KINDS", "module": "fuzz.kinds",
     "serialized": ["x"]},
    "keras>Lambda", 2**31 - 1, -3, 0, [None, 8, 8, 3], [None, 10**6, 10**6, 3], [3], "float8",
)  # fmt: skip


def _network(layers: Any, keras: Any, *, with_code: bool = False) -> Any:
    inputs = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(inputs)
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    if with_code:
        x = layers.Lambda(_code, name="code", output_shape=(3, 3, 4))(x)
    x = layers.Add()([layers.ReLU(max_value=6.0)(x), x])
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def _write_keras(seeds: Path) -> None:
    import keras
    import tf_keras
    from keras import layers

    _network(layers, keras).save(seeds / "functional.keras")
    _network(layers, keras, with_code=True).save(seeds / "code.keras")
    keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.RandomFlip(),
            layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 1.0, 1.0]),
            layers.SeparableConv2D(4, 3, activation="swish"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", kernel_regularizer="l2"),
        ]
    ).save(seeds / "sequential.keras")
    _network(tf_keras.layers, tf_keras).save(seeds / "keras2.keras")


def _write_h5(seeds: Path) -> None:
    import keras
    import tf_keras
    from keras import layers

    _network(layers, keras).save(seeds / "functional.h5")
    _network(layers, keras).save_weights(seeds / "weights.weights.h5")
    _network(tf_keras.layers, tf_keras).save(seeds / "keras2.h5")
    _network(tf_keras.layers, tf_keras, with_code=True).save(seeds / "code2.h5")


def _make_keras(rng: random.Random, seeds: Path, folder: Path) -> Path:
    content = rng.choice(sorted(seeds.iterdir())).read_bytes()
    path = folder / "model.keras"
    if rng.random() < 0.15:
        path.write_bytes(mutated_bytes(rng, content))
        return path
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change = rng.random()
    if change < 0.55:
        config = mutated_json(rng, json.loads(members["config.json"]), HOSTILE_PARTS)
        members["config.json"] = as_json(config)
    elif change < 0.85:
        members["model.weights.h5"] = mutated_bytes(rng, members["model.weights.h5"])
    elif change < 0.92:
        metadata = mutated_json(rng, json.loads(members["metadata.json"]), ("2.15.0", "3", "x.y"))
        members["metadata.json"] = as_json(metadata)
    else:
        name = rng.choice(sorted(members))
        odd = rng.choice((b"", b"[" * 50_000, b"\xff\xfe", b"null", b"\0" * 10**7))
        members[name] = rng.choice((members[name][:-5], odd))
    if rng.random() < 0.1:
        members[rng.choice(("../../escaped", "/escaped", "assets/../../../escaped"))] = b"x"
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _make_h5(rng: random.Random, seeds: Path, folder: Path) -> Path:
    import h5py

    source = rng.choice(sorted(seeds.iterdir()))
    path = folder / source.name.replace(source.stem.split(".")[0], "model")
    content = source.read_bytes()
    if "weights" in source.name or rng.random() < 0.6:
        path.write_bytes(mutated_bytes(rng, content))
        return path
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        name = rng.choice(("model_config", "model_config", "model_config", "keras_version"))
        text = file.attrs[name]
        text = text.decode() if isinstance(text, bytes) else text
        if name == "model_config":
            changed = as_json(mutated_json(rng, json.loads(text), HOSTILE_PARTS))
            text = changed.decode().replace("\\u0000", "")
        else:
            text = rng.choice(("", "x", "3", "2.9", "99", "-1", "3.x"))
        del file.attrs[name]
        file.attrs[name] = rng.choice((text, text, text, np.bytes_(text.encode() or b"x"), 3))
    return path


def _load(path: Path) -> None:
    """As `compress quantize`, as a teacher and as weights of a backbone."""
    from distill.backbones.weights.foreign_file import needs_conversion
    from distill.backbones.weights_file import load_weights_file
    from distill.model_file import load_model

    with contextlib.suppress(UserError):
        _as_foreign(path)
    if not needs_conversion(path):
        with contextlib.suppress(UserError):
            load_model(path)
    import keras

    load_weights_file(_network(keras.layers, keras), path)


def _as_foreign(path: Path) -> None:
    from compress.foreign.door import (
        check_input,
        graph_statement,
        with_fixed_size,
        with_output_layer,
    )
    from compress.foreign.load import load_foreign
    from compress.graph.classifier import image_size_of

    model = with_output_layer(load_foreign(path), None)
    check_input(model)
    graph_statement(model)
    model = with_fixed_size(model)
    image_size_of(model)
    model.predict_on_batch(np.zeros((1, *model.inputs[0].shape[1:]), "float32"))


def _quantize(path: Path) -> list[str]:
    photos = path.parent / "photos"
    for label, first in (("a", 0), ("b", 100), ("c", 200)):
        for number in range(15):
            save_photo(photos / label / f"{number}.png", seed=first + number)
    return ["compress", "quantize", str(path), "--data", str(photos), "--recipe", "float32"]


PRELOADED = (
    "numpy", "h5py", "tensorflow", "keras", "tf_keras", "compress.foreign.load",
    "compress.foreign.door", "distill.model_file",
)  # fmt: skip
KERAS = Kind(PRELOADED, _write_keras, _make_keras, _load, _quantize)
H5 = Kind(PRELOADED, _write_h5, _make_h5, _load, _quantize)


def _write_saved_models(seeds: Path) -> None:
    import keras
    import tf_keras
    from keras import layers

    _network(layers, keras).export(seeds / "keras3", verbose=False)
    _network(tf_keras.layers, tf_keras).save(seeds / "keras2", save_format="tf")


def _make_saved_model(rng: random.Random, seeds: Path, folder: Path) -> Path:
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "model"
    shutil.copytree(rng.choice(sorted(seeds.iterdir())), path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    if rng.random() < 0.5:
        file = rng.choice(files)
        file.write_bytes(mutated_bytes(rng, file.read_bytes()))
        return path
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    saved = mutated_message(rng, saved)
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    return path


def _serve(path: Path) -> None:
    """As `compress quantize` and as a teacher."""
    from distill.saved_model import open_saved_model

    with contextlib.suppress(UserError):
        _as_foreign(path)
    served = open_saved_model(path)
    ((name, spec),) = served.function.structured_input_signature[1].items()
    if spec.shape.rank == 4:
        served.function(**{name: np.zeros((1, SIDE, SIDE, 3), spec.dtype.as_numpy_dtype)})


SAVED_MODELS = Kind(PRELOADED, _write_saved_models, _make_saved_model, _serve, _quantize)
