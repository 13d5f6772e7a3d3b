"""Files for LiteRT and ONNX Runtime, and the metadata in them."""

import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.harness import Kind
from fuzz.mutations import (
    WORDS,
    as_json,
    mutated_bytes,
    mutated_json,
    mutated_message,
    mutated_object,
)  # fmt: skip
from support import save_photo

SIDE = 8
VALUES = {
    "classes": ["rose", "tulip", "löwenzahn", "other"],
    "output": "probabilities",
    "pixels": {"range": [0, 255], "mean": [127.5] * 3, "std": [127.5] * 3},
    "image_size": [SIDE, SIDE],
    "source": "student",
    "recipe": "tflite.int8",
    "split": {"validation": 0.1, "test": 0.2},
    "threshold": {"score": 0.5, "accuracy": 0.95, "coverage": 0.9},
    "contract": {"pixels": "torch", "fit": "stretch"},
    "version": "0.1.0",
}
ULTRALYTICS = {
    "names": {"0": "a", "1": "b", "2": "c", "3": "d"},
    "imgsz": [8, 8],
    "task": "classify",
}


def write_tflite(path: Path, *, is_int8: bool = False) -> None:
    """A convolution, a depthwise one, a mean and a dense layer: four probabilities."""
    import keras
    import tensorflow as tf
    from keras import layers

    inputs = keras.Input((SIDE, SIDE, 3), batch_size=1)
    x = layers.Conv2D(4, 3, strides=2, activation="relu6", padding="same")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Concatenate()([x, layers.AveragePooling2D(1)(x)])
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax")(x))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if is_int8:
        images = np.random.default_rng(0).uniform(0, 255, (4, 1, SIDE, SIDE, 3)).astype("float32")
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    path.write_bytes(converter.convert())


def write_onnx(path: Path) -> None:
    """The same kind of network, with channels first."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    arrays = {
        "kernel": rng.normal(size=(4, 3, 3, 3)), "bias": rng.normal(size=4),
        "depthwise": rng.normal(size=(4, 1, 3, 3)), "dense": rng.normal(size=(4 * 16, 4)),
    }  # fmt: skip
    constants = [numpy_helper.from_array(a.astype("float32"), name) for name, a in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["a"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Clip", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "depthwise"], ["c"], pads=[1] * 4, group=4),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[1, 1]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "dense"], ["f"]),
        helper.make_node("Softmax", ["f"], ["answers"]),
    ]
    graph = helper.make_graph(
        nodes,
        "fuzz",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, [1, 4])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)


def _write_tflite_seeds(seeds: Path) -> None:
    write_tflite(seeds / "float32.tflite")
    write_tflite(seeds / "int8.tflite", is_int8=True)


def _write_onnx_seeds(seeds: Path) -> None:
    import onnx
    from onnx.external_data_helper import convert_model_to_external_data
    from onnxruntime.quantization import QuantType, quantize_dynamic

    write_onnx(seeds / "float32.onnx")
    quantize_dynamic(seeds / "float32.onnx", seeds / "int8.onnx", weight_type=QuantType.QUInt8)
    outside = onnx.load(seeds / "float32.onnx")
    convert_model_to_external_data(outside, location="weights.data", size_threshold=0)
    onnx.save(outside, seeds / "outside.onnx")


def _make_tflite(rng: random.Random, seeds: Path, folder: Path) -> Path:
    content = rng.choice(sorted(seeds.glob("*.tflite"))).read_bytes()
    path = folder / "model.tflite"
    path.write_bytes(_changed_tflite(rng, content))
    return path


def _changed_tflite(rng: random.Random, content: bytes) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    if rng.random() < 0.4:
        return mutated_bytes(rng, content)
    try:
        model = mutated_object(rng, schema.ModelT.InitFromPackedBuf(content, 0))
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
    except (struct.error, TypeError, ValueError, AttributeError, OverflowError, IndexError):
        return mutated_bytes(rng, content)  # the schema cannot hold that value


def _make_onnx(rng: random.Random, seeds: Path, folder: Path) -> Path:
    import onnx

    source = rng.choice(sorted(seeds.glob("*.onnx")))
    path = folder / "model.onnx"
    (folder / "weights.data").write_bytes((seeds / "weights.data").read_bytes())
    content = source.read_bytes()
    if rng.random() < 0.35:
        path.write_bytes(mutated_bytes(rng, content))
        return path
    model = mutated_message(rng, onnx.load(source, load_external_data=False))
    if source.stem == "outside" and rng.random() < 0.5:
        tensor = rng.choice(model.graph.initializer or [onnx.TensorProto()])
        for entry in tensor.external_data:
            entry.value = rng.choice([*(w for w in WORDS if w.isprintable()), "../weights.data"])
    path.write_bytes(model.SerializeToString())
    return path


def _ask(path: Path) -> None:
    """What `evaluate predict` does with a file, and `evaluate accuracy` beyond that."""
    from compress.recipes.runtimes import runtime_of
    from eval.serve.answers import FileAnswers

    answers = FileAnswers(path)
    shape = (*answers.image_size, 1 if answers.contract.channels == "grey" else 3)
    answers.answers([np.zeros(shape, "uint8"), np.full(shape, 200, "uint8")])
    if answers.metadata:
        runtime_of(path)


def _predict(path: Path) -> list[str]:
    photo = save_photo(path.parent / "photo.png", seed=1)
    return ["evaluate", "predict", str(path), str(photo)]


PRELOADED = (
    "numpy", "onnx", "onnxruntime", "ai_edge_litert.interpreter", "eval.serve.answers",
    "compress.recipes.runtimes",
)  # fmt: skip
TFLITE = Kind(PRELOADED, _write_tflite_seeds, _make_tflite, _ask, _predict)
ONNX = Kind(PRELOADED, _write_onnx_seeds, _make_onnx, _ask, _predict)


def _write_metadata_seeds(seeds: Path) -> None:
    from compress.recipes.tflite_metadata import with_metadata
    from eval.metadata import read_metadata

    write_tflite(seeds / "plain.tflite")
    write_onnx(seeds / "plain.onnx")
    _add_zip(seeds / "plain.tflite", seeds / "own.tflite", {"metadata.json": _own(VALUES)})
    metadata = read_metadata(seeds / "own.tflite")
    assert metadata is not None, "the seed has no metadata"
    content = with_metadata((seeds / "plain.tflite").read_bytes(), metadata)
    (seeds / "described.tflite").write_bytes(content)


def _own(values: Any) -> bytes:
    return as_json({"names": {"0": "x"}, "potstill": values})


def _add_zip(source: Path, target: Path, members: dict[str, bytes]) -> None:
    target.write_bytes(source.read_bytes())
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _make_metadata(rng: random.Random, seeds: Path, folder: Path) -> Path:
    import onnx

    values = mutated_json(rng, rng.choice((VALUES, VALUES, ULTRALYTICS)))
    is_own = rng.random() < 0.7
    if rng.random() < 0.4:
        path = folder / "model.onnx"
        model = onnx.load(seeds / "plain.onnx")
        texts = {"potstill": json.dumps(values)} if is_own else {
            str(k): str(v) for k, v in values.items()
        } if isinstance(values, dict) else {"names": repr(values)}  # fmt: skip
        for key, text in texts.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = (
                part.encode("utf-8", "replace").decode() for part in (key, text)
            )
        content = model.SerializeToString()
        path.write_bytes(mutated_bytes(rng, content) if rng.random() < 0.1 else content)
    else:
        path = folder / "model.tflite"
        source = rng.choice(("plain.tflite", "described.tflite"))
        members = {"metadata.json": _own(values) if is_own else as_json(values)}
        labels = "\n".join(rng.choice(WORDS) for _ in range(rng.choice((0, 3, 4, 5))))
        members["labels.txt"] = labels.encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:
            members["../../escaped"] = b"x"
        _add_zip(seeds / source, path, members)
        if rng.random() < 0.4:
            _change_end(rng, path, seeds / source)
    if rng.random() < 0.2:
        words = "\n".join(rng.choice(WORDS) for _ in range(rng.choice((0, 3, 4, 5))))
        (folder / "labels.txt").write_bytes(words.encode("utf-8", "surrogatepass"))
    return path


def _change_end(rng: random.Random, path: Path, source: Path) -> None:
    """Damage what lies behind the model, or the metadata in it."""
    content, start = path.read_bytes(), source.stat().st_size
    if rng.random() < 0.6:
        path.write_bytes(content[:start] + mutated_bytes(rng, content[start:]))
    else:
        at = content.find(b"M001")  # TFLite's metadata
        at = max(at - 4, 0)
        end = min(at + 600, start)
        changed = mutated_bytes(rng, content[at:end])[: end - at].ljust(end - at, b"\0")
        path.write_bytes(content[:at] + changed + content[end:])


METADATA = Kind(PRELOADED, _write_metadata_seeds, _make_metadata, _ask, _predict)
