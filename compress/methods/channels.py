"""Structured pruning: remove the channels that contribute least per unit of compute."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import keras
import numpy as np
from pydantic import Field

from compress.graph.gradients import visit_gradients
from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import copy_model
from compress.int8.bias_correction import add_to_bias
from compress.int8.calibration import Images, calibration_images
from compress.methods import METHODS
from compress.methods.channel_groups import ChannelGroups, total, with_channels
from compress.methods.channel_sizes import (
    FileLatency,
    Of,
    Sizes,
    latency_meter,
    sizes_within,
)
from configs.errors import UserError

log = logging.getLogger("potstill")

Remember = Callable[[Callable[[], dict[str, Any]]], dict[str, Any]]


@METHODS.add(needs=("calibration", "finetune", "remember"))
def channels(
    model: keras.Model,
    *,
    calibration: Images,
    finetune: Callable[..., None],
    remember: Remember,
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    of: Of = "macs",
    multiple_of: Annotated[int, Field(gt=0)] = 16,
    num_images: Annotated[int, Field(gt=0)] = 256,
    epochs: Annotated[int, Field(gt=0)] = 5,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
) -> keras.Model:
    """A smaller model, without the channels that contribute least per unit of compute, fine-tuned.

    A channel is removed together with everything that makes and reads it: an expanded channel of
    an inverted residual block with its depthwise kernel, its squeeze-and-excitation and its inputs
    of the projection. Channels that a residual connection adds to others stay.

    The importance of a channel is the Fisher information of a gate on it (Theis et al. 2018,
    section 2.1, arXiv:1801.05787): half the mean square of the change of the log-probabilities, to
    first order, when the channel is replaced by its mean. The channels with the least importance
    per cost are removed first, over the whole network. The mean of a removed channel moves into
    the biases of the layers that read it, if there are any.

    Args:
        calibration: images of the training split, through the evaluation view.
        finetune: trains a model in place, (model, epochs, learning_rate).
        remember: calls the function that it gets and returns the result. In a run that continues
            after a kill, it returns the earlier result. The model's manifest records it.
        keep: share of `of` that remains.
        of: multiply-accumulates ("macs"), or the latency of the file that a recipe writes, such as
            "tflite.int8", measured on this machine with one thread.
        multiple_of: the number of channels in a group is a multiple of this, because runtimes
            compute that many at once.
        num_images: how many images determine the importances.
        epochs: for how long the smaller model is fine-tuned.
        learning_rate: the peak of its schedule.

    Raises:
        UserError: the model has no channels that can be removed, or not enough of them.
    """
    images = calibration_images(calibration, num_images)
    smaller = without_channels(
        model, images, keep=keep, of=of, multiple_of=multiple_of, remember=remember
    )
    finetune(smaller, epochs=epochs, learning_rate=learning_rate)
    return smaller


def without_channels(
    model: keras.Model,
    images: np.ndarray,
    *,
    keep: float,
    of: Of = "macs",
    multiple_of: int,
    remember: Remember = lambda find: find(),
) -> keras.Model:
    """The smaller model before fine-tuning; arguments as of `channels`.

    Args:
        images: float32, (images, height, width, 3), from the training split.
    """
    copy = copy_model(model)
    graph = LayerGraph.of(copy)
    graph.check_names("lose channels")
    groups = ChannelGroups(graph)
    if not groups.groups:
        raise UserError(
            f"model {model.name!r} has no channels that can be removed. Expected channels between "
            "two convolutions, of layers that are used once, which no residual connection adds to "
            "others. Remove the method."
        )
    means, importances = _importances(copy, groups, images)

    def find_sizes() -> dict[str, Any]:
        within = partial(sizes_within, keep, groups, importances, multiple_of=multiple_of)
        if of == "macs":
            return {"channels": within()}
        latencies: dict[Sizes, FileLatency] = {}
        with latency_meter(copy, of, images) as measure:

            def latency_ratio(sizes: Sizes) -> float:
                remaining = _most_important(importances, sizes)
                latencies[sizes] = measure(with_channels(copy, groups, remaining))
                return latencies[sizes].difference.ratio

            sizes = within(latency=latency_ratio)
        return {"channels": sizes, "latency": latencies[sizes].to_json()}

    remaining = _most_important(importances, remember(find_sizes)["channels"])
    _move_means(groups, means, remaining)
    _log(groups, remaining)
    return with_channels(copy, groups, remaining)


def _importances(
    model: keras.Model, groups: ChannelGroups, images: np.ndarray
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """How much the answers depend on each channel.

    Returns:
        The means of the channels, by the exits of the groups, and the importances of the channels
        in nats, for each group.
    """
    rng = np.random.default_rng(0)
    names = {name for group in groups.groups for name in group.exits}
    batches: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def visit(name: str, tensor: np.ndarray, gradient: np.ndarray) -> None:
        places = tuple(range(1, tensor.ndim - 1))
        sums = [values.sum(axis=places) for values in (tensor * gradient, gradient)]
        batches[name].append(np.stack([tensor.mean(axis=places), *sums]).astype("float64"))

    visit_gradients(model, images, rng, visit, names)
    by_image = {name: np.concatenate(parts, axis=1) for name, parts in batches.items()}
    means = {name: stack[0].mean(axis=0) for name, stack in by_image.items()}
    changes = {name: stack[1] - stack[2] * means[name] for name, stack in by_image.items()}
    return means, [
        0.5 * np.square(sum(changes[name] for name in group.exits)).mean(axis=0)
        for group in groups.groups
    ]


def _most_important(importances: list[np.ndarray], sizes: Sizes) -> list[np.ndarray]:
    """The indices of the channels that stay, for each group."""
    return [
        np.sort(np.argsort(of_group, kind="stable")[-size:])
        for of_group, size in zip(importances, sizes, strict=True)
    ]


def _move_means(
    groups: ChannelGroups, means: dict[str, np.ndarray], remaining: list[np.ndarray]
) -> None:
    """Add what the removed channels contributed on average to the biases of their readers."""
    for call, exit_name, index in groups.readers():
        mean = means[exit_name].copy()
        mean[remaining[index]] = 0
        kernel = np.asarray(call.layer.kernel)
        by_channel = kernel.sum(axis=tuple(range(kernel.ndim - 2)))
        add_to_bias(groups.graph, call, (mean @ by_channel).astype("float32"))


def _log(groups: ChannelGroups, remaining: list[np.ndarray]) -> None:
    """Say how many multiply-accumulates remain, and which groups lost channels."""
    sizes = [group.size for group in groups.groups]
    left = total(groups.macs, [len(indices) for indices in remaining])
    log.info(
        "channels: %.1f of %.1f million multiply-accumulates remain: %s",
        left / 1e6, total(groups.macs, sizes) / 1e6,
        ", ".join(
            f"{group.exits[0]} {len(indices)} of {group.size}"
            for group, indices in zip(groups.groups, remaining, strict=True)
            if len(indices) < group.size
        ),
    )  # fmt: skip
