"""The door: a foreign Keras model is wrapped once, and then takes raw pixels as ours do."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from compress.graph.classifier import DeclaredAnswers, image_size_of, last_activation
from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import copy_layer, copy_model, named_layers, replay
from configs.contract import (
    OWN_PIXELS,
    Answers,
    Fit,
    InputContract,
    Interpolation,
    Pixels,
    Statement,
)
from configs.errors import UserError, failure_of, is_of_the_machine


@keras.saving.register_keras_serializable("potstill")
class ReverseChannels(layers.Layer):
    """RGB to BGR and back, for a model whose first kernel cannot be reordered."""

    def call(self, x: Any) -> Any:
        return keras.ops.flip(x, axis=-1)


def graph_statement(model: keras.Model) -> Statement:
    """What the graph of a Keras model says of its contract.

    Scaling before the first kernel means raw pixels. A Resizing layer in a model that takes photos
    of any size says how they are fitted. The shape says how many channels there are, and where. A
    last softmax or sigmoid says what the answers are.
    """
    shape = tuple(model.inputs[0].shape) if len(model.inputs) == 1 else ()
    is_first = len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)
    channels = shape[1 if is_first else 3] if len(shape) == 4 else None
    resizing = _resizing(model)
    return Statement(
        fit=_fit_of(resizing) if resizing else None,
        interpolation=INTERPOLATIONS.get(resizing.interpolation) if resizing else None,
        pixels=OWN_PIXELS if _scales_pixels(model) else None,
        channels="grey" if channels == 1 else None,
        layout="nchw" if is_first else None,
        answers=graph_answers(model),
    )


INTERPOLATIONS: dict[str, Interpolation] = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos3": "lanczos",
    "lanczos5": "lanczos",
}
"""The names of Keras, and ours."""


def _resizing(model: keras.Model) -> layers.Resizing | None:
    """The layer that fits photos of any size to the network, before anything but scaling."""
    if len(model.inputs) != 1 or None not in tuple(model.inputs[0].shape)[1:3]:
        return None
    for _, layer in named_layers(model):
        if isinstance(layer, layers.Resizing):
            return layer
        if not isinstance(layer, layers.InputLayer | layers.Rescaling | layers.Normalization):
            break  # what comes before would see photos of another size
    return None


def _fit_of(resizing: layers.Resizing) -> Fit:
    if resizing.crop_to_aspect_ratio:
        return "crop"
    return "pad" if resizing.pad_to_aspect_ratio else "stretch"


def with_fixed_size(model: keras.Model) -> keras.Model:
    """The model without a Resizing layer for photos of any size: photos come fitted to it.

    `graph_statement` of the model itself says how they are fitted.
    """
    resizing = _resizing(model)
    if resizing is None:
        return model
    shape = resizing.height, resizing.width, model.inputs[0].shape[-1]
    inputs = keras.Input(shape, name=model.inputs[0].name)

    def stand_in(layer: Any) -> Callable:
        return (lambda x, **_: x) if layer is resizing else layer

    outputs = replay(model, inputs, stand_in)
    return copy_model(keras.Model(inputs, outputs, name=model.name))


def check_input(model: keras.Model) -> None:
    """Check that a photo can be the input, whatever the contract says: a black one is answered.

    Raises:
        UserError: it cannot.
    """
    inputs = getattr(model, "inputs", None) or []
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
    if len(tuple(model.outputs[0].shape)) != 2:
        image_size_of(model)
    if len(shape) != 4 or None in shape[1:] or not {1, 3} & {shape[1], shape[3]}:
        image_size_of(model)  # says what is wrong
        raise AssertionError(f"an input of shape {shape} that nothing is wrong with")
    try:
        model.predict_on_batch(np.zeros((shape[0] or 1, *shape[1:]), "float32"))
    except Exception as error:  # Keras loads layers with options of any kind, and fails here
        if is_of_the_machine(error):
            raise
        raise UserError(
            f"the model does not answer a black photo ({failure_of(error)}). Its file is damaged, "
            "or was made with another version of Keras. Try it there: model.predict(photos)."
        ) from None


def graph_answers(model: keras.Model) -> Answers | None:
    """What the last layer of a model says about its answers; None where it does not tell."""
    if len(model.outputs) != 1:
        return None
    activation, is_single = last_activation(model), model.outputs[0].shape[-1] == 1
    if activation == "sigmoid":
        return "score" if is_single else "scores"
    return "probabilities" if activation == "softmax" else None


def _scales_pixels(model: keras.Model) -> bool:
    for _, layer in named_layers(model):
        if isinstance(layer, layers.Rescaling | layers.Normalization):
            return True
        if getattr(layer, "kernel", None) is not None:
            return False
    return False


def with_output_layer(model: keras.Model, name: str | None) -> keras.Model:
    """The model up to the layer that answers.

    Raises:
        UserError: there is no such layer, or several outputs and no name.
    """
    if name is None:
        if len(model.outputs) > 1:
            raise UserError(
                f"the model has {len(model.outputs)} outputs: {', '.join(model.output_names)}. "
                "Expected one with a score per class. Name the layer of that output, as in\n"
                f"  --output-layer {model.output_names[0]}"
            )
        return model
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise UserError(
            f"--output-layer {name}: the model has no layer of this name. Its last layers are "
            f"{', '.join(names[-5:])}."
        )
    return keras.Model(model.inputs, model.get_layer(name).output, name=model.name)


def wrapped(model: keras.Model, contract: InputContract) -> keras.Model:
    """A model that takes raw pixels, channels last, and whose end says what it answers with.

    Args:
        contract: of the model. What it says of pixels, channels and layout becomes a part of the
            new model; fit, interpolation and labels do not.

    Returns:
        float32 images of 0..255, (batch, height, width, 3), or 1 channel if it is grey, to
        (batch, classes). It is `model` itself if there is nothing to change.
    """
    changes_answers = contract.answers not in (None, "logits", graph_answers(model)) or (
        contract.answers == "logits" and graph_answers(model) is not None
    )
    changes_input = (
        contract.pixels != OWN_PIXELS or contract.channels == "bgr" or contract.layout == "nchw"
    )
    if not changes_input and not changes_answers:
        return model
    shape = tuple(model.inputs[0].shape[1:])
    if contract.layout == "nchw":
        shape = (*shape[1:], shape[0])
    inputs = keras.Input(shape, name=model.inputs[0].name)
    image: Any = inputs
    if contract.pixels != OWN_PIXELS:
        image = _scaling(contract.pixels, shape[-1])(image)
    stand_in: Callable = _itself
    if contract.channels == "bgr":
        first = None if contract.layout == "nchw" else _first_kernel(model)
        if first is None:
            image = ReverseChannels(name="bgr")(image)
        else:
            stand_in = _with_reversed_kernel(first)
    if contract.layout == "nchw":
        image = layers.Permute((3, 1, 2), name="channels_first")(image)
    outputs = replay(model, image, stand_in)
    if changes_answers and contract.answers:
        outputs = DeclaredAnswers(contract.answers, name="answers")(outputs)
    return copy_model(keras.Model(inputs, outputs, name=model.name))


def _itself(layer: Any) -> Any:
    return layer


def _scaling(pixels: Pixels, num_channels: int) -> layers.Layer:
    """(pixel - mean) / std as a layer."""
    means, stds = pixels.mean[:num_channels], pixels.std[:num_channels]
    scale = [1 / std for std in stds]
    offset = [-mean / std for mean, std in zip(means, stds, strict=True)]
    if len(set(zip(scale, offset, strict=True))) == 1:
        return layers.Rescaling(scale[0], offset[0], name="pixels")
    return layers.Rescaling(scale, offset, name="pixels")


def _first_kernel(model: keras.Model) -> layers.Conv2D | None:
    """The convolution that alone reads the image, through padding at most."""
    graph = LayerGraph.of(model)
    tensor = graph.inputs
    while len(readers := graph.readers(tensor)) == 1:
        layer = readers[0].layer
        if isinstance(layer, layers.Conv2D) and layer.groups == 1 and graph.num_calls(layer) == 1:
            return layer
        if not isinstance(layer, layers.ZeroPadding2D):
            break
        tensor = readers[0].output
    return None


def _with_reversed_kernel(first: layers.Conv2D) -> Callable:
    reordered = copy_layer(first)
    reordered.kernel.assign(reordered.kernel[:, :, ::-1, :])
    return lambda layer: reordered if layer is first else layer
