"""`STRATEGIES`: which layers learn when."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from configs.progress import track
from configs.registry import Registry

log = logging.getLogger("potstill")

STRATEGIES = Registry("strategy")

HEAD = "logits"
HEAD_EPOCHS = 50


@dataclass(frozen=True)
class Plan:
    """What a strategy decided.

    Attributes:
        head_first: train the classifier on the frozen features before anything else.
        trainable: "all" or "head".
        freeze_batchnorm: keep the statistics and scales of the pretrained network: those of a
            few thousand photos are worse.
        learning_rate: the peak, where the config says auto.
    """

    head_first: bool
    trainable: str
    freeze_batchnorm: bool
    learning_rate: float


@STRATEGIES.add
def auto(*, weights: str | None, moved: bool) -> Plan:
    """Pretrained: the head first, then everything with BatchNormalization frozen.

    From scratch, or from the kernels of another network (whose activations follow other
    statistics), everything from the first step.

    Args:
        weights: what the backbone starts from; None is from scratch.
        moved: the weights were made for another network (`weights: lite`).
    """
    if weights is None or moved:
        return Plan(False, "all", False, 1e-3)
    return Plan(True, "all", True, 2e-4)


@STRATEGIES.add
def full(
    *,
    weights: str | None,
    moved: bool,
    head_first: bool = False,
    freeze_batchnorm: bool = False,
) -> Plan:
    """Everything learns from the first step, or after the head."""
    rate = 1e-3 if weights is None or moved else 2e-4
    return Plan(head_first, "all", freeze_batchnorm, rate)


@STRATEGIES.add
def head(*, weights: str | None, moved: bool) -> Plan:
    """Only the classifier learns, on views of the photos; the network stays as it is."""
    return Plan(True, "head", True, 1e-3)


def apply_plan(model: keras.Model, plan: Plan) -> None:
    """Set what of `model` is trainable."""
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
    """Train the classifier on the features of the frozen network, each computed once.

    The features are those of the evaluation view: one pass through the network, then a linear
    classifier on the cached result, which takes seconds.
    """
    dense = model.get_layer(HEAD)
    backbone = keras.Model(model.input, dense.input)
    features, labels = [], []
    with track("features for the head", num_examples) as advance:
        for images, some in batches:
            features.append(np.asarray(backbone.predict_on_batch(images)))
            labels.append(some)
            advance(sum(map(len, labels)))
    x, y = np.concatenate(features), np.concatenate(labels)
    classifier = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Dense(dense.units)])
    classifier.compile(
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    keras.utils.set_random_seed(seed)
    history: Any = classifier.fit(x, y, batch_size=64, epochs=HEAD_EPOCHS, verbose=0)
    dense.set_weights(classifier.layers[-1].get_weights())
    log.info("head trained on frozen features, loss %.3f", history.history["loss"][-1])
