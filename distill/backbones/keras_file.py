"""`keras_file`: any Keras model of the user's as a backbone, with a new classifier."""

import logging
from functools import cache, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from configs.artifacts import MODEL_ENDINGS, ending, file_sha256
from configs.contract import OWN_PIXELS, RANGES, Channels, PixelRange, Pixels
from configs.errors import UserError
from configs.process.ending import folder_until_the_end
from configs.resume import Facts
from distill.backbones import BACKBONES
from distill.backbones.applications import scaled
from distill.backbones.entry import Dropout, with_head
from distill.backbones.flat import flat, flat_copy
from distill.backbones.weights.foreign_file import convert

log = logging.getLogger("potstill")

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601), as in Pillow."""
PASS_ON = (
    layers.Activation, layers.Dropout, layers.Flatten, layers.Reshape, layers.Softmax,
    layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D,
)  # fmt: skip
"""Layers that may stand between the kernel of a classifier and the answers."""
SCALING = (layers.Rescaling, layers.Normalization)


def _check(options: Facts) -> Facts:
    """The options of a config, unchanged.

    Raises:
        UserError: they name no file of a model, or contradict each other.
    """
    if not options["weights"]:
        raise UserError(
            "backbone keras_file has no weights. Name the file of a Keras model: "
            "{name: keras_file, weights: mine.keras}"
        )
    if ending(options["weights"]) not in MODEL_ENDINGS:
        raise UserError(
            f"weights of backbone keras_file are {options['weights']!r}. Expected a whole Keras "
            f"model ({', '.join(MODEL_ENDINGS)})."
        )
    if options["pixels"] == "caffe" and options["channels"] not in (None, "bgr"):
        raise UserError("pixels: caffe means that blue comes first; leave channels out.")
    return options


@BACKBONES.add(check=_check)
def keras_file(
    *,
    image_size: int,
    num_classes: int,
    weights: str | None = None,
    features: str | None = None,
    pixels: PixelRange | None = None,
    channels: Channels | None = None,
    dropout: Dropout = 0.2,
) -> keras.Model:
    """A Keras model of the user's, with its classifier replaced.

    Args:
        weights: its file (.keras, .h5).
        features: the layer whose output the new classifier reads. Null: what its last Dense layer
            reads, or its output if it has none. Maps of features are averaged over their places.
        pixels: the range of pixels that it expects. Null: 0..255, or what its first layers scale.
        channels: the order of the colours that it expects; grey for one channel.
        dropout: share of the features dropped before the classifier.

    Returns:
        A flat model, (batch, image_size, image_size, 3) in 0..255 -> (batch, num_classes).

    Raises:
        UserError: the file holds no such model, or one that cannot take these images.
    """
    _check({"weights": weights, "pixels": pixels, "channels": channels})
    path = Path(str(weights)).expanduser()
    if not path.is_file():
        raise UserError(f"weights {str(path)!r} do not exist. Expected the file of a Keras model.")
    model = flat(keras.saving.load_model(_plain(path), compile=False))
    channels = "bgr" if pixels == "caffe" else channels
    _check_input(model, path, image_size, channels)
    model = keras.Model(model.inputs, _pooled(_features(model, features, path), path))
    if pixels is None and not _scales(model):
        log.warning(
            "%s: nothing in it scales pixels, so it gets 0..255. If it expects another range, say "
            "which: pixels: 0..1, -1..1, torch or caffe", path.name,
        )  # fmt: skip
    return with_head(
        _behind_the_door(model, path, image_size, RANGES[pixels or "0..255"], channels or "rgb"),
        num_classes,
        dropout,
        "keras_file",
    )


def _plain(path: Path) -> Path:
    """The file as a plain file of Keras 3, converted once in this process."""
    plain = _folder() / f"{file_sha256(path)}.keras"
    if not plain.exists():
        convert(path, plain, of="backbone")
    return plain


@cache
def _folder() -> Path:
    return folder_until_the_end()


def _check_input(
    model: keras.Model, path: Path, image_size: int, channels: Channels | None
) -> None:
    """Raise UserError if the model does not take square images of this many channels."""
    expected = 1 if channels == "grey" else 3
    shape = tuple(model.inputs[0].shape) if len(model.inputs) == 1 else ()
    if len(shape) != 4 or shape[3] != expected:
        what = f"an input of shape {shape}" if shape else f"{len(model.inputs)} inputs"
        raise UserError(
            f"{path} has {what}. Expected (batch, height, width, {expected}), channels last"
            + ("." if channels == "grey" else "; with one channel say channels: grey.")
        )


def _features(model: keras.Model, name: str | None, path: Path) -> Any:
    """What the new classifier reads, before any pooling."""
    if name is not None:
        names = [layer.name for layer in model.layers]
        if name not in names:
            raise UserError(
                f"features: {name}: {path} has no layer of this name. Its last layers are "
                f"{', '.join(names[-5:])}."
            )
        return model.get_layer(name).output
    if len(model.outputs) != 1:
        raise UserError(
            f"{path} has {len(model.outputs)} outputs ({', '.join(model.output_names)}). Name the "
            "layer that the new classifier reads: features: LAYER"
        )
    for layer in reversed(model.layers):
        if isinstance(layer, layers.Dense) or (
            isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1) and _answers(model)
        ):
            return layer.input
        if not isinstance(layer, PASS_ON):
            break
    return model.outputs[0]


def _answers(model: keras.Model) -> bool:
    """Whether a model returns one row of numbers, not a map of features."""
    return len(model.outputs[0].shape) == 2


def _pooled(features: Any, path: Path) -> Any:
    if len(features.shape) == 4:
        return layers.GlobalAveragePooling2D(name="pooled_features")(features)
    if len(features.shape) != 2:
        raise UserError(
            f"{path} returns features of shape {tuple(features.shape)}. Expected (batch, features) "
            "or (batch, height, width, channels). Name another layer: features: LAYER"
        )
    return features


def _scales(model: keras.Model) -> bool:
    """Whether anything scales the pixels before the first kernel."""
    for layer in model.layers:
        if isinstance(layer, SCALING):
            return True
        if getattr(layer, "kernel", None) is not None:
            return False
    return False


def _behind_the_door(
    model: keras.Model, path: Path, image_size: int, pixels: Pixels, channels: Channels
) -> keras.Model:
    """The same network for raw pixels of this size, red first."""
    image = keras.Input((image_size, image_size, 3), name="image")
    first = None if channels == "rgb" else _first_kernel(model, path, channels)
    by_colour = np.array(LUMA)[:, None] if channels == "grey" else np.eye(3)[::-1]

    def arrays_of(layer: Any) -> list[np.ndarray]:
        if first is None or layer is not first:
            return layer.get_weights()
        kernel, *bias = layer.get_weights()
        return [np.einsum("rc,hwco->hwro", by_colour, kernel).astype("float32"), *bias]

    if channels == "grey":  # one channel has one range
        pixels = Pixels(mean=(pixels.mean[0],) * 3, std=(pixels.std[0],) * 3)
    before = (lambda x: x) if pixels == OWN_PIXELS else partial(scaled, pixels=pixels)
    try:
        return flat_copy(model, image, before=before, arrays_of=arrays_of)
    except (ValueError, TypeError) as error:
        size = " x ".join(str(side) for side in model.inputs[0].shape[1:3])
        raise UserError(
            f"{path} cannot take images of {image_size} x {image_size}: it was made for {size}. "
            f"Set image_size to that. ({' '.join(str(error).split()):.150})"
        ) from None


def _first_kernel(model: keras.Model, path: Path, channels: Channels) -> Any:
    """The convolution that alone reads the image, through padding and one scale for all channels.

    Its kernel can read red, green and blue instead.
    """
    for layer in model.layers[1:]:
        if isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.DepthwiseConv2D):
            return layer
        is_scale = isinstance(layer, layers.Rescaling) and np.size(layer.scale) == 1
        if not (is_scale or isinstance(layer, layers.ZeroPadding2D)):
            raise UserError(
                f"{path} takes {channels} images, and its layer {layer.name} "
                f"({type(layer).__name__}) reads them before any convolution. Potstill turns only "
                "a first convolution to red, green and blue. Save the model without this layer, "
                "and say what it did: pixels: ..."
            )
    raise UserError(f"{path} has no convolution. Expected an image classifier.")
