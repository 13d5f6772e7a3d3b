"""Structured pruning: channels that matter little to the answers leave the network."""

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
    Of,
    Sizes,
    file_latency,
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
    """A smaller model, without the channels that cost most for what they tell, fine-tuned.

    Channels leave together with all that makes and reads them: the expanded ones of an inverted
    residual block with their depthwise kernels, the squeeze-and-excitation and the projection's
    inputs. Those that a residual connection adds to others stay. What a channel tells is half the
    mean square of what the log-probabilities change by, to first order, when it becomes its mean:
    the Fisher information of a gate on it (Theis et al. 2018, section 2.1, arXiv:1801.05787). Those
    that tell least for what they cost go first, all over the network. The mean that goes with a
    channel moves into the biases behind it, where there are any.

    Args:
        calibration: images of the training split, through the evaluation view.
        finetune: trains a model in place, (model, epochs, learning_rate).
        remember: says what the function given to it says; when a killed run goes on, what that
            said then. It becomes part of the model's manifest.
        keep: share of `of` that stays.
        of: multiply-accumulates ("macs"), or the latency of the file that a recipe writes, such as
            "tflite.int8", measured on this machine with one thread.
        multiple_of: groups keep so many channels or a multiple of it: runtimes compute that many
            at once.
        num_images: how many images the importance of channels is taken from.
        epochs: how long the smaller model learns.
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
    """The smaller model before it learns; arguments as of `channels`.

    Args:
        images: float32, (images, height, width, 3), from the training split.
    """
    copy = copy_model(model)
    graph = LayerGraph.of(copy)
    graph.check_names("lose channels")
    groups = ChannelGroups(graph)
    if not groups.groups:
        raise UserError(
            f"model {model.name!r} has no channels that can be removed: none between two "
            "convolutions, of layers that are used once, that no residual connection adds to "
            "others. Leave the method out."
        )
    means, importances = _importances(copy, groups, images)

    def found() -> dict[str, Any]:
        within = partial(sizes_within, keep, groups, importances, multiple_of=multiple_of)
        if of == "macs":
            return {"channels": within()}
        told: dict[Sizes, dict[str, Any]] = {}
        with file_latency(copy, of, images) as measured:

            def latency(sizes: Sizes) -> float:
                kept = _most_telling(importances, sizes)
                told[sizes] = measured(with_channels(copy, groups, kept))
                return float(told[sizes]["ratio"])

            sizes = within(latency=latency)
        return {"channels": sizes, "latency": told[sizes]}

    kept = _most_telling(importances, remember(found)["channels"])
    _move_means(groups, means, kept)
    _log(groups, kept)
    return with_channels(copy, groups, kept)


def _importances(
    model: keras.Model, groups: ChannelGroups, images: np.ndarray
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Means by the name of the layer that reads out a group; nats that each channel tells."""
    rng = np.random.default_rng(0)
    wanted = {name for group in groups.groups for name in group.exits}
    seen: dict[str, list[np.ndarray]] = {name: [] for name in wanted}

    def look(name: str, tensor: np.ndarray, slopes: np.ndarray) -> None:
        places = tuple(range(1, tensor.ndim - 1))
        sums = [each.sum(axis=places) for each in (tensor * slopes, slopes)]
        seen[name].append(np.stack([tensor.mean(axis=places), *sums]).astype("float64"))

    visit_gradients(model, images, rng, look, wanted)
    by_image = {name: np.concatenate(some, axis=1) for name, some in seen.items()}
    means = {name: some[0].mean(axis=0) for name, some in by_image.items()}
    told = {name: some[1] - some[2] * means[name] for name, some in by_image.items()}
    return means, [
        0.5 * np.square(sum(told[name] for name in group.exits)).mean(axis=0)
        for group in groups.groups
    ]


def _most_telling(importances: list[np.ndarray], sizes: Sizes) -> list[np.ndarray]:
    """For each group the channels that stay."""
    return [
        np.sort(np.argsort(each, kind="stable")[-size:])
        for each, size in zip(importances, sizes, strict=True)
    ]


def _move_means(
    groups: ChannelGroups, means: dict[str, np.ndarray], kept: list[np.ndarray]
) -> None:
    """Add what the channels that leave brought on average to the biases of what read them."""
    for use, exit_name, index in groups.readers():
        mean = means[exit_name].copy()
        mean[kept[index]] = 0
        kernel = np.asarray(use.layer.kernel)
        by_channel = kernel.sum(axis=tuple(range(kernel.ndim - 2)))
        add_to_bias(groups.graph, use, (mean @ by_channel).astype("float32"))


def _log(groups: ChannelGroups, kept: list[np.ndarray]) -> None:
    sizes = [group.size for group in groups.groups]
    left = total(groups.macs, [len(each) for each in kept])
    log.info(
        "channels: %.1f of %.1f million multiply-accumulates stay: %s",
        left / 1e6, total(groups.macs, sizes) / 1e6,
        ", ".join(
            f"{group.exits[0]} {len(each)} of {group.size}"
            for group, each in zip(groups.groups, kept, strict=True)
            if len(each) < group.size
        ),
    )  # fmt: skip
