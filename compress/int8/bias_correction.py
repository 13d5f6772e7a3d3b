"""Biases that make up for what rounded kernels add to their outputs on average."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from compress.graph.kernels import INT8_STEPS, convolve, has_kernel, round_kernel
from compress.graph.layer_graph import LayerCall, LayerGraph
from compress.graph.replay import replay, small_batches


def correct_biases(model: keras.Model, images: np.ndarray, kernel_steps: int = INT8_STEPS) -> None:
    """Change the biases of a model so that rounding its kernels to int8 adds nothing on average.

    The error of a rounded kernel has a mean because its inputs have one: after a swish nearly all
    of them are positive. This mean is subtracted from the bias, or from what the following
    BatchNormalization adds (Nagel et al. 2019, section 4.2, arXiv:1906.04721; measured on images
    as in appendix D).

    Args:
        images: float32, (images, height, width, 3), from the training split.
        kernel_steps: the number of steps from 0 to the largest weight of a kernel.
    """
    graph = LayerGraph.of(model)
    calls = [call for call in graph.calls if has_kernel(call.layer)]
    calls = [call for call in calls if graph.num_calls(call.layer) == 1]
    # A kernel is linear: its error for the mean input is its mean error.
    for call, mean_input in zip(calls, _mean_inputs(model, calls, images), strict=True):
        rounded = round_kernel(call.layer, call.layer.kernel, kernel_steps)
        error = np.asarray(rounded - call.layer.kernel)
        added = np.asarray(convolve(call.layer, error, mean_input))
        add_to_bias(graph, call, -added.mean(axis=tuple(range(added.ndim - 1))))


def _mean_inputs(model: keras.Model, calls: list[LayerCall], images: np.ndarray) -> list[Any]:
    """The mean over the images of what each call reads, (1, ...)."""
    numbers = {id(call.layer): number for number, call in enumerate(calls)}

    # Traced: eager tensors of a model would all live until its last layer is done.
    @tf.function(autograph=False)
    def input_sums(batch: Any) -> list[Any]:
        sums: list[Any] = [None] * len(calls)

        def summed(layer: Any) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                if id(layer) in numbers:
                    sums[numbers[id(layer)]] = tf.reduce_sum(args[0], axis=0, keepdims=True)
                return layer(*args, **kwargs)

            return call

        replay(model, batch, summed)
        return sums

    totals: list[Any] = [0.0] * len(calls)
    for batch in small_batches(images):
        sums = input_sums(tf.convert_to_tensor(batch))
        totals = [total + added for total, added in zip(totals, sums, strict=True)]
    return [total / len(images) for total in totals]


def add_to_bias(graph: LayerGraph, call: LayerCall, mean: np.ndarray) -> None:
    """Add a constant to what a layer returns, if it has a bias or a BatchNormalization after it.

    Args:
        call: the call of a layer with a kernel.
        mean: (channels,).
    """
    readers = graph.readers(call.output)
    norm = readers[0].layer if len(readers) == 1 else None
    if call.layer.use_bias:
        call.layer.bias.assign(call.layer.bias + mean)
    elif (
        isinstance(norm, layers.BatchNormalization)
        and graph.num_calls(norm) == 1
        and call.layer.activation is keras.activations.linear
    ):
        # Not to beta: in training, the norm subtracts the mean of a batch, which lacks `mean`.
        norm.moving_mean.assign(norm.moving_mean - mean)
