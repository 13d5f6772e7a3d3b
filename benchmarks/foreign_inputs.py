"""The models and files that `foreign_files.py` gives to Potstill: made here, trained in seconds."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from onnx import TensorProto, helper
from PIL import Image

from compress.recipes.tflite_metadata import with_metadata
from configs.contract import RANGES, InputContract
from eval.images import evaluation_image
from eval.metadata import FileMetadata

SIDE = 32
COLOURS = {"blue": (60, 70, 190), "green": (70, 170, 80), "red": (190, 70, 60)}
NUMBERS = dict(zip(("1", "2", "10"), COLOURS.values(), strict=True))
PETS = {"cat": (180, 110, 60), "dog": (80, 120, 140)}
SHADES = {"bright": (200,) * 3, "dark": (70,) * 3, "middle": (135,) * 3}
PERMUTED = ("red", "blue", "green")
OWN_LAYER = """import keras

class Swish(keras.layers.Layer):
    def call(self, x):
        return x * keras.ops.sigmoid(x)
"""

Layer = Callable[[Any], Any]


@dataclass(frozen=True)
class Foreign:
    """A model or a file of another tool.

    Attributes:
        expected: what the model itself answers about the test photos, as probabilities in the
            order of the folders: (photos, classes). None where nothing can be measured.
        imports, allow_lambda: the options of `compress quantize` that this row uses.
    """

    kind: str
    library: str
    path: Path
    data: Path
    expected: np.ndarray | None
    imports: tuple[Path, ...] = ()
    allow_lambda: bool = False


@dataclass(frozen=True)
class PhotoFolder:
    """Split folders of photos that are told apart by their colour."""

    path: Path
    classes: tuple[str, ...]

    def read(self, split: str, contract: InputContract) -> tuple[np.ndarray, np.ndarray]:
        """The photos as a model of this contract sees them, and their numbers in its order."""
        order = list(contract.labels or sorted(self.classes))
        paths = [p for name in order for p in sorted((self.path / split / name).iterdir())]
        images = np.stack([evaluation_image(path, (SIDE, SIDE), contract) for path in paths])
        return contract.apply(images), np.array([order.index(p.parent.name) for p in paths])

    def in_folder_order(self, answers: np.ndarray, contract: InputContract) -> np.ndarray:
        """Answers about test photos, with photos and classes in the order of the folders."""
        order = list(contract.labels or sorted(self.classes))
        place = [order.index(name) for name in sorted(self.classes)]
        by_class = answers.reshape(len(order), -1, answers.shape[1])
        return by_class[place].reshape(answers.shape)[:, place]


def write_photos(
    path: Path, classes: dict[str, tuple[int, ...]], *, is_wide: bool = False, mode: str = "RGB"
) -> PhotoFolder:
    """Wide photos show the colour of their class at the left and right edges only."""
    rng = np.random.default_rng(0)
    for split, num in {"train": 30, "validation": 20, "test": 20}.items():
        for name, colour in classes.items():
            (path / split / name).mkdir(parents=True)
            for i in range(num):
                pixels = np.array(colour) + rng.normal(0, 60, (SIDE, 3 * SIDE, 3))
                pixels += rng.normal(0, 40, 3)  # so much that no model gets every photo right
                if is_wide:
                    pixels[:, SIDE:-SIDE] = rng.integers(60, 200, (SIDE, SIDE, 3))
                else:
                    pixels = pixels[:, :SIDE]
                image = Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))
                image.convert(mode).save(path / split / name / f"{i:02}.png")
    return PhotoFolder(path, tuple(classes))


def scaled(x: Any) -> Any:
    """Pixels from 0 to 1, inside the model."""
    return layers.Rescaling(1 / 255)(x)


def network(
    first: Layer | None = scaled, head: Layer | None = None, shape: tuple[int, ...] = (32, 32, 3)
) -> keras.Model:
    """Two convolutions with batch normalisation, and a head: three probabilities by default."""
    keras.utils.set_random_seed(3)
    inputs = x = keras.Input(shape)
    x = first(x) if first else x
    for width in (8, 16):
        x = layers.Conv2D(width, 3, strides=2, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, head(x) if head else layers.Dense(3, activation="softmax")(x))


def fitted(
    model: keras.Model, x: np.ndarray, y: np.ndarray, loss: Any = "sparse_categorical_crossentropy"
) -> keras.Model:
    """The model after a few seconds of training."""
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(x, y, epochs=30, batch_size=30, verbose=0)
    return model


class Workshop:
    """A folder with photos, and the models that were trained on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.colours = write_photos(folder / "photos", COLOURS)
        self.numbers = write_photos(folder / "numbered", NUMBERS)
        self.wide = write_photos(folder / "wide", COLOURS, is_wide=True)
        self.grey = write_photos(folder / "grey", SHADES, mode="L")
        self.pets = write_photos(folder / "pets", PETS)

    def place(self, name: str) -> Path:
        """A path in a folder of its own, so that no labels.txt of another file lies beside it."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}" / name
        path.parent.mkdir()
        return path

    def trained(
        self,
        model: keras.Model,
        photos: PhotoFolder | None = None,
        contract: InputContract = InputContract(),  # noqa: B008 - frozen
        **options: Any,
    ) -> tuple[keras.Model, np.ndarray]:
        """A trained model and its probabilities, in the order of the folders."""
        photos = photos or self.colours
        fitted(model, *photos.read("train", contract), **options)
        return model, self.answers(model, photos, contract)

    def answers(
        self,
        model: keras.Model,
        photos: PhotoFolder | None = None,
        contract: InputContract = InputContract(),  # noqa: B008 - frozen
    ) -> np.ndarray:
        """What the model says about the test photos, as probabilities in the order of folders."""
        photos = photos or self.colours
        answers = np.asarray(model.predict(photos.read("test", contract)[0], verbose=0), "float64")
        if answers.shape[1] == 1:
            answers = np.hstack([1 - answers, answers])
        return photos.in_folder_order(answers, contract)


def saved(model: keras.Model, path: Path) -> Path:
    """The model in the container that the ending names; a folder for no ending."""
    if path.suffix:
        model.save(path)
    else:
        model.export(path, verbose=False)
    return path


def tflite(model: keras.Model, path: Path, **settings: Any) -> Path:
    """A file as TensorFlow's own converter writes it."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in settings.items():
        setattr(converter, name, value)
    with contextlib.redirect_stdout(io.StringIO()):
        path.write_bytes(converter.convert())
    return path


def run_uint8(path: Path, images: np.ndarray) -> np.ndarray:
    """What LiteRT says about photos, with the arithmetic of uint8 edges written out."""
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (entry,), (exit_) = interpreter.get_input_details(), interpreter.get_output_details()[0]
    scale, zero = entry["quantization"]
    answers = []
    for image in images:
        pixels = np.clip(np.round(image[None] / scale + zero), 0, 255).astype("uint8")
        interpreter.set_tensor(entry["index"], pixels)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(exit_["index"])[0])
    scale, zero = exit_["quantization"]
    answers = (np.array(answers, "float64") - zero) * scale
    return answers / answers.sum(axis=1, keepdims=True)


def to_onnx(model: keras.Model, path: Path, **options: Any) -> Path:
    """A file as Keras exports it."""
    model.export(str(path), format="onnx", verbose=False, **options)
    return path


def with_edge(source: Path, path: Path, kind: int) -> Path:
    """The same ONNX model with an input of another type."""
    model = onnx.load(source)
    entry = model.graph.input[0]
    model.graph.node.insert(
        0, helper.make_node("Cast", ["raw"], [entry.name], "edge", to=TensorProto.FLOAT)
    )
    entry.name, entry.type.tensor_type.elem_type = "raw", kind
    onnx.save(model, path)
    return path


def with_tflite_metadata(source: Path, path: Path, labels: tuple[str, ...]) -> Path:
    """TFLite metadata with the range 0..1 and labels, as the tool of TFLite writes them."""
    metadata = FileMetadata(list(labels), "probabilities", RANGES["0..1"], [SIDE, SIDE], "", "")
    path.write_bytes(with_metadata(source.read_bytes(), metadata))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "\n".join(labels))
    return path


def with_ultralytics_keys(source: Path, path: Path, labels: tuple[str, ...]) -> Path:
    """The metadata_props of Ultralytics."""
    model = onnx.load(source)
    names = str(dict(enumerate(labels)))
    helper.set_model_props(model, {"task": "classify", "stride": "1", "names": names})
    onnx.save(model, path)
    return path


def keras2_models(shop: Workshop) -> Iterator[Foreign]:
    """Models that a child process writes with Keras 2."""
    folder = shop.place("x").parent
    own = InputContract()
    x, y = shop.colours.read("train", own)
    np.savez(folder / "photos.npz", x=x, y=y, test=shop.colours.read("test", own)[0])
    program = Path(__file__).with_name("foreign_keras2.py")
    subprocess.run(
        [sys.executable, program, folder / "photos.npz", folder],
        check=True,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        stderr=subprocess.DEVNULL,
    )
    answers = np.load(folder / "answers.npz")
    for kind, name, key in (
        (".h5 with `groups`, as Teachable Machine", "keras_model.h5", "keras_model"),
        ("SavedModel", "saved_model", "keras_model"),
        (".h5 with tfmot's pruning wrappers", "pruned.h5", "pruned"),
    ):
        path = folder / name
        yield Foreign(kind, "Keras 2", path, shop.colours.path, answers[key].astype("float64"))


def labelled(path: Path, labels: tuple[str, ...]) -> Path:
    """The same file with a labels.txt beside it."""
    path.with_name("labels.txt").write_text("\n".join(labels) + "\n")
    return path


def copied(source: Path, path: Path) -> Path:
    """The same file in another place."""
    shutil.copy(source, path)
    return path
