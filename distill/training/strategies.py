"""`STRATEGIES`: which layers learn when."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
import numpy as np

from configs.progress import track
from configs.registry import Registry
from distill.backbones import HEAD
from distill.frozen import answers_of

log = logging.getLogger("potstill")

STRATEGIES = Registry("strategy")

HEAD_EPOCHS = 50


@dataclass(frozen=True)
class Plan:
    """The decisions of a strategy.

    Attributes:
        head_first: fit the classifier on the frozen features before anything else.
        trainable: the layers that learn.
        freeze_batchnorm: keep the statistics and scales of the pretrained network; a few thousand
            photos give worse ones.
        learning_rate: the peak, if the config says auto.
    """

    head_first: bool
    trainable: Literal["all", "head"]
    freeze_batchnorm: bool
    learning_rate: float


FROM_SCRATCH = Plan(head_first=False, trainable="all", freeze_batchnorm=False, learning_rate=1e-3)
PRETRAINED = Plan(head_first=True, trainable="all", freeze_batchnorm=True, learning_rate=2e-4)


@STRATEGIES.add
def auto(*, weights: str | None, from_another_network: bool) -> Plan:
    """Pretrained: first the head, then everything with BatchNormalization frozen.

    From scratch, or from the kernels of another network (whose activations have other
    statistics), everything learns from the first update.

    Args:
        weights: the start of the backbone; None is from scratch.
        from_another_network: the weights were made for another network (`weights: lite`).
    """
    return FROM_SCRATCH if weights is None or from_another_network else PRETRAINED


@STRATEGIES.add
def full(
    *,
    weights: str | None,
    from_another_network: bool,
    head_first: bool = False,
    freeze_batchnorm: bool = False,
) -> Plan:
    """Everything learns from the first update, or after the head."""
    plan = auto(weights=weights, from_another_network=from_another_network)
    return replace(plan, head_first=head_first, freeze_batchnorm=freeze_batchnorm)


@STRATEGIES.add
def head(*, weights: str | None, from_another_network: bool) -> Plan:
    """Only the classifier learns, on views of the photos; the network does not change."""
    return Plan(head_first=True, trainable="head", freeze_batchnorm=True, learning_rate=1e-3)


def apply_plan(model: keras.Model, plan: Plan) -> None:
    """Make those layers of `model` trainable that the plan lets learn."""
    for layer in model.layers:
        frozen = plan.freeze_batchnorm and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name == HEAD or (plan.trainable == "all" and not frozen)


def fit_head(
    model: keras.Model,
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    *,
    num_examples: int,
    seed: int,
) -> None:
    """Fit the classifier on the features of the frozen network.

    Each feature is computed once, from the evaluation view. A linear classifier then learns from
    the cached features, which takes seconds.

    Args:
        batches: (images, labels) of examples that have a label.
    """
    dense = model.get_layer(HEAD)
    features_of = answers_of(keras.Model(model.input, dense.input))
    features_by_batch, labels_by_batch = [], []
    with track("features for the head", num_examples) as advance:
        for images, labels in batches:
            features_by_batch.append(features_of(images))
            labels_by_batch.append(labels)
            advance(sum(map(len, labels_by_batch)))
    features, labels = np.concatenate(features_by_batch), np.concatenate(labels_by_batch)
    classifier = keras.Sequential(
        [keras.Input(features.shape[1:]), keras.layers.Dense(dense.units)]
    )
    classifier.compile(
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    keras.utils.set_random_seed(seed)
    history: Any = classifier.fit(features, labels, batch_size=64, epochs=HEAD_EPOCHS, verbose=0)
    dense.set_weights(classifier.layers[-1].get_weights())
    log.info("head trained on frozen features, loss %.3f", history.history["loss"][-1])
