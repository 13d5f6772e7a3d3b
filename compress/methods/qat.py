"""Quantization-aware training: the network trains with the rounding of the int8 file."""

from collections.abc import Callable
from typing import Annotated, Any

import keras
import tensorflow as tf
from keras import layers, ops
from pydantic import Field

from compress.graph.kernels import has_kernel, round_kernel
from compress.graph.layer_graph import LayerGraph
from compress.graph.preprocessing import Offset
from compress.graph.replay import rebuild_model
from compress.graph.tensor_names import INPUT, CallNames
from compress.int8.calibration import CalibratedModel, Images, calibration_images
from compress.methods import METHODS
from compress.recipes.tflite import float_file

OF_SIGMOIDS = 0.0, 255 / 256
"""The range of the result of every sigmoid in TFLite."""


# The constants are multiples of int8 steps, and the network has learned with exactly these.
@METHODS.add(needs=("calibration", "finetune"), undone_by=("*",))
def qat(
    model: keras.Model,
    *,
    calibration: Images,
    finetune: Callable[..., None],
    num_images: Annotated[int, Field(gt=0)] = 64,
    epochs: Annotated[int, Field(gt=0)] = 2,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4,
) -> keras.Model:
    """A model that was trained with int8 rounding, and whose constants are rounded to int8 steps.

    Channels are scaled first where that pays, as in int8 files (`compress/int8/equalization/`).
    Training rounds every kernel and every tensor that the int8 file rounds. The gradient passes as
    if nothing were rounded (Jacob et al. 2018, section 3, arXiv:1712.05877). Tensors have the
    ranges that the recipes would choose, and kernels have a scale for each output channel.
    BatchNormalizations are folded into the kernels first, with their present statistics. At the
    end, the constants keep their rounded values, so an int8 recipe has nothing to round in them. It
    chooses the ranges of the tensors as for any model.

    Args:
        calibration: images of the training split, through the evaluation view.
        finetune: trains a model in place, (model, epochs, learning_rate).
        num_images: how many images determine the ranges of tensors.
        epochs: for how long the model is trained.
        learning_rate: the peak of its schedule.

    Raises:
        UserError: the model has no int8 counterpart.
    """
    LayerGraph.of(model).check_names("be trained for int8")
    images = calibration_images(calibration, num_images)
    calibrated = CalibratedModel(model, images, equalize="auto")
    simulated = simulate_int8(calibrated)
    finetune(simulated, epochs=epochs, learning_rate=learning_rate)
    return _without_simulation(simulated)


def simulate_int8(calibrated: CalibratedModel) -> keras.Model:
    """A model for training whose constants and tensors are rounded as in the int8 file."""
    _, in_file = float_file(calibrated, output="probabilities", ranges="loss")
    ranges = {twin: in_file.ranges[name] for name, twin in in_file.twins.items()}
    twins: dict[int, Any] = {}
    names = CallNames()

    def stand_in(layer: Any) -> Callable:
        if id(layer) not in twins:
            twins[id(layer)] = _for_training(layer)
        low, high = ranges.get(names.add(layer.name), (0.0, 0.0))
        if _activates(layer, keras.activations.sigmoid):
            low, high = OF_SIGMOIDS

        def call(*args: Any, **kwargs: Any) -> Any:
            twin = twins[id(layer)]
            # Keras records calls of a BatchNormalization with a mask, which our twin does not take.
            output = twin(*args) if isinstance(twin, WRAPPERS) else twin(*args, **kwargs)
            return _Rounded(low, high)(output) if low < high else output

        return call

    return rebuild_model(calibrated.model, stand_in, before=_Rounded(*ranges[INPUT]))


def _for_training(layer: Any) -> Any:
    """The layer as it is trained: with the same name and the same weights."""
    if has_kernel(layer):
        return _RoundedKernel(layer, name=layer.name)
    if isinstance(layer, layers.BatchNormalization):
        return _FixedStatistics(layer, name=layer.name)
    if isinstance(layer, Offset):
        return Offset(_rounded_constant(layer.offset), name=layer.name)
    if _activates(layer, keras.activations.silu):
        return _RoundedSwish(name=layer.name)
    return layer


def _rounded_constant(values: list[float]) -> list[float]:
    """Constants other than kernels have 255 steps over the range of their values and 0."""
    step = (max(*values, 0.0) - min(*values, 0.0)) / 255
    return [step * round(value / step) for value in values]


def _activates(layer: Any, activation: Callable) -> bool:
    """Whether a layer is this activation and nothing else."""
    return isinstance(layer, layers.Activation) and layer.activation is activation


def _without_simulation(simulated: keras.Model) -> keras.Model:
    """The trained network with rounded constants and plain layers."""
    twins: dict[int, Any] = {}

    def stand_in(layer: Any) -> Callable:
        return twins.setdefault(id(layer), _plain(layer))

    return rebuild_model(simulated, stand_in)


def _plain(layer: Any) -> Any:
    """The layer of the network that a layer of the simulation stands for."""
    if isinstance(layer, _RoundedKernel):
        layer.round_for_good()
    if isinstance(layer, WRAPPERS):
        return layer.layer
    if isinstance(layer, _Rounded):
        return lambda x: x
    if isinstance(layer, _RoundedSwish):
        return layers.Activation("silu", name=layer.name)
    if isinstance(layer, Offset):
        return layers.Rescaling(1.0, layer.offset, name=layer.name)
    return layer


class _RoundedKernel(layers.Wrapper):
    """A layer that computes with its rounded kernel, and updates the kernel itself."""

    def call(self, x: Any) -> Any:
        weights = [
            self._rounded() if variable is self.layer.kernel else variable
            for variable in self.layer.trainable_variables
        ]
        output, _ = self.layer.stateless_call(weights, self.layer.non_trainable_variables, x)
        return output

    def _rounded(self) -> Any:
        kernel = ops.convert_to_tensor(self.layer.kernel)
        return kernel + ops.stop_gradient(round_kernel(self.layer, kernel) - kernel)

    def round_for_good(self) -> None:
        """Replace the kernel by its rounded values."""
        self.layer.kernel.assign(round_kernel(self.layer, self.layer.kernel))


class _FixedStatistics(layers.Wrapper):
    """A BatchNormalization that trains gamma and beta, but keeps its statistics."""

    def call(self, x: Any) -> Any:
        return self.layer(x, training=False)


WRAPPERS = _RoundedKernel, _FixedStatistics


class _RoundedSwish(keras.Layer):
    """x * sigmoid(x) with a rounded gate, as in files."""

    def call(self, x: Any) -> Any:
        gate = tf.quantization.fake_quant_with_min_max_args(ops.sigmoid(x), *OF_SIGMOIDS)
        return x * gate


class _Rounded(keras.Layer):
    """Rounds values to 255 steps of a range, as an int8 tensor does."""

    def __init__(self, low: float, high: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = low, high

    def call(self, x: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_args(x, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "low": self.low, "high": self.high}
