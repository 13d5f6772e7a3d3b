"""Quantization-aware training: the network learns with the rounding of an int8 file in it."""

from collections.abc import Callable
from typing import Annotated, Any

import keras
import tensorflow as tf
from keras import layers, ops
from pydantic import Field

from compress.graph.kernels import has_kernel, round_kernel
from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import rebuild_model
from compress.graph.simplify import Offset
from compress.graph.tensor_names import INPUT, CallNames
from compress.int8.calibration import CalibratedModel, Images, calibration_images
from compress.methods import METHODS
from compress.recipes.tflite import float_file

OF_SIGMOIDS = 0.0, 255 / 256
"""The range that TFLite gives the result of every sigmoid."""


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
    """A model that has learned to be rounded, and whose constants are in the steps of int8.

    Every kernel and every tensor that the int8 file rounds is rounded in training too, and the
    gradient passes as if it were not (Jacob et al. 2018, section 3, arXiv:1712.05877). Tensors have
    the ranges that the recipes would give them, kernels a scale for each output channel, and
    BatchNormalizations are folded into the kernels before, with the statistics that they have.
    In the end constants are left as they were rounded: an int8 recipe finds nothing to round in
    them and chooses the ranges of the tensors as for any model. That recipe writes the file.

    Args:
        calibration: images of the training split, through the evaluation view.
        finetune: trains a model in place, (model, epochs, learning_rate).
        num_images: how many images the ranges of tensors are taken from.
        epochs: how long the model learns.
        learning_rate: the peak of its schedule.

    Raises:
        UserError: the model has no int8 counterpart.
    """
    LayerGraph.of(model).check_names("be trained for int8")
    ready = CalibratedModel(model, calibration_images(calibration, num_images))
    simulated = rounding(ready)
    finetune(simulated, epochs=epochs, learning_rate=learning_rate)
    return _settled(simulated)


def rounding(ready: CalibratedModel) -> keras.Model:
    """A model that learns, its constants and tensors rounded as the int8 file rounds them."""
    _, found = float_file(ready, output="probabilities", ranges="loss")
    ranges = {twin: found.ranges[name] for name, twin in found.twins.items()}
    twins: dict[int, Any] = {}
    names = CallNames()

    def stand_in(layer: Any) -> Callable:
        if id(layer) not in twins:
            twins[id(layer)] = _learning(layer)
        low, high = ranges.get(names.add(layer.name), (0.0, 0.0))
        if _activates(layer, keras.activations.sigmoid):
            low, high = OF_SIGMOIDS

        def call(*args: Any, **kwargs: Any) -> Any:
            twin = twins[id(layer)]
            # Calls of a BatchNormalization are recorded with a mask, which ours does not take.
            output = twin(*args) if isinstance(twin, OURS) else twin(*args, **kwargs)
            return _Rounded(low, high)(output) if low < high else output

        return call

    return rebuild_model(ready.model, stand_in, before=_Rounded(*ranges[INPUT]))


def _learning(layer: Any) -> Any:
    """A layer as it is trained: called the same, with the same weights."""
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
    """Constants that are no kernel have 255 steps from the least to the largest of them and 0."""
    step = (max(*values, 0.0) - min(*values, 0.0)) / 255
    return [step * round(value / step) for value in values]


def _activates(layer: Any, activation: Callable) -> bool:
    return isinstance(layer, layers.Activation) and layer.activation is activation


def _settled(simulated: keras.Model) -> keras.Model:
    """The network alone, its constants as they were rounded."""

    twins: dict[int, Any] = {}

    def stand_in(layer: Any) -> Callable:
        return twins.setdefault(id(layer), _learned(layer))

    return rebuild_model(simulated, stand_in)


def _learned(layer: Any) -> Any:
    """What `_learning` and `_Rounded` leave of a layer."""
    if isinstance(layer, _RoundedKernel):
        layer.settle()
    if isinstance(layer, OURS):
        return layer.layer
    if isinstance(layer, _Rounded):
        return lambda x: x
    if isinstance(layer, _RoundedSwish):
        return layers.Activation("silu", name=layer.name)
    if isinstance(layer, Offset):
        return layers.Rescaling(1.0, layer.offset, name=layer.name)
    return layer


class _RoundedKernel(layers.Wrapper):
    """A layer whose kernel is rounded; what it learns goes to the kernel as it was."""

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

    def settle(self) -> None:
        """Leave the kernel as it is rounded."""
        self.layer.kernel.assign(round_kernel(self.layer, self.layer.kernel))


class _FixedStatistics(layers.Wrapper):
    """A BatchNormalization that learns gamma and beta, and no new statistics."""

    def call(self, x: Any) -> Any:
        return self.layer(x, training=False)


OURS = _RoundedKernel, _FixedStatistics


class _RoundedSwish(keras.Layer):
    """x * sigmoid(x), the gate of which files round, too."""

    def call(self, x: Any) -> Any:
        gate = tf.quantization.fake_quant_with_min_max_args(ops.sigmoid(x), *OF_SIGMOIDS)
        return x * gate


class _Rounded(keras.Layer):
    """Values in 255 steps of a range, as an int8 tensor has them."""

    def __init__(self, low: float, high: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = low, high

    def call(self, x: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_args(x, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "low": self.low, "high": self.high}
