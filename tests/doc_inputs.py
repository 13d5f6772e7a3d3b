"""The files that the commands in the docs name: photos, models of several tools, labels."""

from pathlib import Path

import keras
import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from support import command

COLOURS = {"daisy": (230, 230, 210), "rose": (190, 40, 60), "tulip": (120, 60, 160)}
SIZE = 224


def save_inputs(folder: Path) -> None:
    """Write all of them into a folder."""
    for number in range(40):
        for label, colour in COLOURS.items():
            _save_photo(folder / "photos" / label / f"{number}.jpg", colour, number)
            if number < 20:
                _save_photo(folder / "labelled" / label / f"{number}.jpg", colour, 100 + number)
            _save_photo(folder / "more" / f"{label}-{number}.jpg", colour, 200 + number)
    _save_photo(folder / "photo.jpg", COLOURS["rose"], 999)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in COLOURS))
    model = _keras_model(SIZE)
    _fit(model, folder / "photos")
    model.save(folder / "model.keras")
    _tiny_model().save(folder / "tiny.keras")
    _save_onnx(folder / "resnet18.onnx")
    _save_onnx(folder / "model.onnx")
    _save_keras2(folder / "keras_model.h5")
    _save_pruned(folder / "model.h5")
    words = ("--data", "photos/", "--pixels", "0..1", "--recipe", "float32", "--out", "given")
    outcome = command("compress", "quantize", "model.keras", *words, cwd=folder)
    assert outcome.code == 0, outcome.err
    (folder / "given" / "model-float32.tflite").rename(folder / "model.tflite")


def _save_photo(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A photo in shades of a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *colour]).normal(0, 40, (6, 6, 3))
    coarse = np.clip(np.array(colour) + noise, 0, 255).astype("uint8")
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(path)


def _tiny_model() -> keras.Model:
    """A network from which half of the multiply-accumulates can be removed."""
    layers: list[keras.Layer] = [keras.Input((32, 32, 3))]
    for stride in (4, 2):
        layers += [
            keras.layers.Conv2D(32, 3, strides=stride, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(len(COLOURS))]
    return keras.Sequential(layers)


def _keras_model(size: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(8, 8, 8, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(COLOURS), activation="softmax"),
        ]
    )


def _fit(model: keras.Model, photos: Path) -> None:
    """Train on pixels of 0..1."""
    batches = keras.utils.image_dataset_from_directory(
        photos, image_size=(SIZE, SIZE), seed=1, verbose=False
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(batches.map(lambda images, labels: (images / 255, labels)), epochs=8, verbose=0)


def _save_onnx(path: Path) -> None:
    """A classifier with channels first, as PyTorch exports it."""
    random = np.random.default_rng(1)
    shapes = {"kernel": (8, 3, 8, 8), "matrix": (3, 8)}
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, random.normal(0, 0.1, shape).ravel())
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], strides=[8, 8]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "matrix"], ["logits"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "net", [image], [logits], weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def _save_keras2(path: Path) -> None:
    """A model of a model, as Teachable Machine writes it."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(1)
    inputs = tf_keras.Input((SIZE, SIZE, 3))
    features = tf_keras.Model(inputs, layers.Conv2D(8, 8, 8, activation="relu")(inputs))
    body = tf_keras.Sequential([features, layers.GlobalAveragePooling2D()])
    head = tf_keras.Sequential([layers.Dense(3, activation="softmax")])
    head.build((None, 8))
    model = tf_keras.Sequential([body, head])
    model.build((None, SIZE, SIZE, 3))
    model.save(path, save_format="h5")


def _save_pruned(path: Path) -> None:
    """A model with the wrappers of tfmot."""
    import tf_keras
    from tf_keras import layers

    from compress.methods.tfmot.bridge import import_tfmot

    sparsity = import_tfmot().sparsity.keras
    model = tf_keras.Sequential(
        [
            layers.Conv2D(8, 8, 8, activation="relu", input_shape=(SIZE, SIZE, 3)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    wrapped = sparsity.prune_low_magnitude(model, sparsity.ConstantSparsity(0.5, 0))
    wrapped.save(path, save_format="h5")
