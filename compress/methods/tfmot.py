"""The bridge to tfmot: a Keras 3 graph replayed in tf_keras, fine-tuned there, and brought back.

tfmot wraps tf_keras layers only. Nobody else imports tf_keras or tfmot.
"""

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compress.graph.replay import named_layers, replay
from configs.artifacts import whole_file
from configs.errors import StepFailed, UserError

Progress = Callable[[int, int, int, int, dict[str, float]], None]
"""progress(epoch, epochs, step, steps_per_epoch, logs) after every step.

`epoch` counts from 0; `step` says how many steps of it are done.
"""

_POOL = ("pool_size", "strides", "padding")
_BIAS = ("use_bias", "activation")
_KERNEL = ("kernel_size", "strides", "padding", "dilation_rate")
OPTIONS: dict[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "Average": (),
    "AveragePooling2D": _POOL,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": ("filters", *_KERNEL, "groups", *_BIAS),
    "Dense": ("units", *_BIAS),
    "DepthwiseConv2D": (*_KERNEL, "depth_multiplier", *_BIAS),
    "Dropout": ("rate", "noise_shape"),
    "Flatten": (),
    "GlobalAveragePooling2D": ("keepdims",),
    "GlobalMaxPooling2D": ("keepdims",),
    "MaxPooling2D": _POOL,
    "Maximum": (),
    "Multiply": (),
    "Normalization": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "Reshape": ("target_shape",),
    "SeparableConv2D": ("filters", *_KERNEL, "depth_multiplier", *_BIAS),
    "Softmax": ("axis",),
    "Subtract": (),
    "ZeroPadding2D": ("padding",),
}
"""What crosses from a Keras 3 layer's config to the tf_keras layer of the same class."""


MAX_GRADIENT = 1e9
"""No gradient of a working kernel comes near. Behind a kernel of zeros every BatchNormalization has
no variance and multiplies gradients by 30; after a dozen of them Adam's squares overflow to nan."""


@dataclass(frozen=True)
class FinetuneData:
    """What a method that fine-tunes learns from, and where it keeps its place.

    Args:
        train: initial epoch -> (images, targets) batches of that and all later epochs.
        loss: (targets, logits) -> one loss per example, written in keras.ops.
        checkpoint: where the state is kept at every epoch's end; None keeps none.
    """

    train: Callable[[int], tf.data.Dataset]
    steps_per_epoch: int
    loss: Callable[[Any, Any], Any]
    checkpoint: Path | None = None
    progress: Progress | None = None


def import_tfmot() -> Any:
    """The tfmot package, imported so that neither this process nor its children notice.

    Importing it sets TF_USE_LEGACY_KERAS, which would turn tf.keras into tf_keras here and in
    every child process.
    """
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    _ = tf.keras.version  # decides what tf.keras is, before tfmot can
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
        if before is not None:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return tfmot


def to_tf_keras(model: keras.Model) -> Any:
    """The same network as a flat tf_keras model, with the same layer names and weights.

    A layer of a nested model is called "<nested model>.<layer>". All layers are trainable there,
    whichever the Keras model was last trained with.

    Raises:
        UserError: tf_keras has no counterpart for a layer.
    """
    import tf_keras

    names = {id(layer): name for name, layer in named_layers(model)}
    stand_ins: dict[int, Any] = {}

    def stand_in(layer: keras.Layer) -> Callable:
        if id(layer) not in stand_ins:
            name = names.get(id(layer), layer.name)
            stand_ins[id(layer)] = _tf_keras_layer(layer, name, seed=len(stand_ins))
        # Keras 3 records call arguments such as training=None; tf_keras decides them itself.
        return lambda *args, **kwargs: stand_ins[id(layer)](*args)

    image = model.inputs[0]
    inputs = tf_keras.Input(tuple(image.shape[1:]), name=image.name)
    outputs = replay(model, inputs, stand_in)
    outputs = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    tf_model = tf_keras.Model(inputs, outputs, name=model.name)
    for _, layer in named_layers(model):
        if _carries_weights(layer):
            stand_ins[id(layer)].set_weights(layer.get_weights())
    return tf_model


def _tf_keras_layer(layer: keras.Layer, name: str, seed: int) -> Any:
    import tf_keras

    kind = type(layer).__name__
    is_keras = type(layer).__module__.startswith("keras.")
    config = layer.get_config() if is_keras and kind in OPTIONS else {}
    if not config or config.get("data_format") == "channels_first":
        raise UserError(
            f"layer {name!r} ({kind}) cannot be fine-tuned by tfmot: it has no counterpart in "
            f"tf_keras. Known: {', '.join(OPTIONS)}. Replace the layer, or leave out what "
            "trains in tf_keras (magnitude)."
        )
    options = {key: config[key] for key in OPTIONS[kind] if key in config}
    if "activation" in options:
        options["activation"] = _activation(options["activation"], name)
    if kind == "Normalization":
        options = _normalization_constants(layer)
    if kind == "Dropout":
        # A generator of its own can be put back where it was when training resumes.
        options |= {"rng_type": "stateful", "seed": seed}
    return getattr(tf_keras.layers, kind)(name=name, **options)


def _activation(activation: Any, name: str) -> Any:
    import tf_keras

    activation = "swish" if activation == "silu" else activation
    try:
        return tf_keras.activations.get(activation)
    except (ValueError, TypeError):
        raise UserError(
            f"layer {name!r} has the activation {activation!r}, which tf_keras does not know."
        ) from None


def _normalization_constants(layer: keras.layers.Normalization) -> dict[str, Any]:
    """Mean and variance as the layer uses them, whether given as constants or adapted."""
    axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
    mean, variance = (np.ravel(keras.ops.convert_to_numpy(x)) for x in (layer.mean, layer.variance))
    return {"axis": axis, "mean": mean, "variance": variance, "invert": layer.invert}


def _carries_weights(layer: keras.Layer) -> bool:
    # Normalization crosses as constants.
    return bool(layer.weights) and not isinstance(layer, keras.layers.Normalization)


def copy_back(tf_model: Any, into: keras.Model) -> keras.Model:
    """`into`, whose layers got the weights of the tf_keras layers of the same name."""
    for name, layer in named_layers(into):
        if _carries_weights(layer):
            layer.set_weights(tf_model.get_layer(name).get_weights())
    return into


def finetune(
    tf_model: Any,
    *,
    train: Callable[[int], tf.data.Dataset],
    steps_per_epoch: int,
    epochs: int,
    loss: Callable[[Any, Any], Any],
    learning_rate: float,
    checkpoint: Path | None = None,
    callbacks: Sequence[Any] = (),
    progress: Progress | None = None,
) -> Any:
    """Train a tf_keras model in place: Adam, the learning rate falling on a cosine to zero.

    Killed and called again with the same arguments, it continues at the first epoch that is not
    in `checkpoint` and ends with the same weights.

    Args:
        train, loss, checkpoint: as in FinetuneData.
        callbacks: tf_keras callbacks, run before the checkpoint is written.

    Returns:
        The model.

    Raises:
        StepFailed: the loss is no number, or the checkpoint is not one of this model.
    """
    import tf_keras

    schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps_per_epoch)
    optimizer = tf_keras.optimizers.Adam(schedule, clipvalue=MAX_GRADIENT)
    optimizer.build(tf_model.trainable_variables)
    tf_model.compile(optimizer, loss=loss)
    variables = [*tf_model.variables, *optimizer.variables]
    initial_epoch = _restore(variables, checkpoint)
    ours = _each_epoch(tf_model, variables, checkpoint, epochs, steps_per_epoch, progress)
    if initial_epoch < epochs:
        tf_model.fit(
            train(initial_epoch),
            initial_epoch=initial_epoch,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            callbacks=[*callbacks, *ours],
            verbose=0,
        )
    return tf_model


def _each_epoch(
    tf_model: Any,
    variables: list[tf.Variable],
    checkpoint: Path | None,
    epochs: int,
    steps_per_epoch: int,
    progress: Progress | None,
) -> list[Any]:
    """The callbacks that seed, report and save."""
    import tf_keras

    generators = [
        layer._random_generator._generator
        for layer in tf_model._flatten_layers()
        if getattr(getattr(layer, "_random_generator", None), "_generator", None) is not None
    ]
    epoch_now = 0

    def begin_epoch(epoch: int, logs: Any) -> None:
        nonlocal epoch_now
        epoch_now = epoch
        for i, generator in enumerate(generators):
            generator.reset_from_seed(epoch * len(generators) + i)

    def end_step(step: int, logs: dict[str, float]) -> None:
        if progress is not None:
            progress(epoch_now, epochs, step + 1, steps_per_epoch, dict(logs))

    def end_epoch(epoch: int, logs: dict[str, float]) -> None:
        if not np.isfinite(logs["loss"]):
            raise StepFailed("fine-tuning diverged: the loss is not a number. Lower learning_rate.")
        assert tf_model.optimizer.iterations == (epoch + 1) * steps_per_epoch, "too few batches"
        if checkpoint is not None:
            _save(variables, checkpoint, num_epochs=epoch + 1)

    return [
        tf_keras.callbacks.LambdaCallback(
            on_epoch_begin=begin_epoch, on_batch_end=end_step, on_epoch_end=end_epoch
        )
    ]


def _save(variables: list[tf.Variable], checkpoint: Path, num_epochs: int) -> None:
    arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(variables)}
    with whole_file(checkpoint) as unfinished, unfinished.open("wb") as file:
        np.savez(file, num_epochs=num_epochs, **arrays)


def _restore(variables: list[tf.Variable], checkpoint: Path | None) -> int:
    """Put back what `checkpoint` holds; how many epochs it has behind it (0 without one)."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    try:
        with np.load(checkpoint) as saved:
            arrays = [saved[f"variable_{i}"] for i in range(len(saved.files) - 1)]
            num_epochs = int(saved["num_epochs"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StepFailed(f"{checkpoint} cannot be read ({error}). Delete it.") from None
    if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
        raise StepFailed(f"{checkpoint} is the checkpoint of another model. Delete it.")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return num_epochs
