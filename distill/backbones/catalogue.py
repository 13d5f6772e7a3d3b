"""What `distill backbones` lists: every backbone with its counts, sizes and weights."""

from dataclasses import dataclass
from typing import Literal

from distill.backbones import BACKBONES
from distill.backbones.macs import count_macs
from distill.backbones.weights.published import catalogue

NUM_CLASSES = 1000
"""The classes that the counts are for, as in the tables of papers."""

Here = Literal["yes", "no", "none published"]


@dataclass(frozen=True)
class BackboneRow:
    """One line of `distill backbones`.

    Attributes:
        num_parameters: with a classifier of 1,000 classes.
        num_macs: of one image of `image_size`; None if they are not known.
        image_size: the default input of the network, in pixels.
        smallest_image: the smallest legal input, in pixels.
        imagenet_here: whether the ImageNet weights are on this machine.
    """

    name: str
    num_parameters: int
    num_macs: int | None
    image_size: int
    smallest_image: int
    imagenet_here: Here


def backbone_rows() -> list[BackboneRow]:
    """Every backbone that builds a network by itself, families together.

    Networks that are not in the catalogue, such as those of the user's code, are built and counted.
    """
    rows = [_row(name) for name in BACKBONES.names() if BACKBONES.facts(name).get("image_size")]
    return sorted(rows, key=lambda row: (BACKBONES.facts(row.name)["family"], row.num_parameters))


def _row(name: str) -> BackboneRow:
    facts = BACKBONES.facts(name)
    known = catalogue().get(name)
    counts = Counts(known["num_parameters"], known["num_macs"]) if known else counts_of(name)
    return BackboneRow(
        name=name,
        num_parameters=counts.num_parameters,
        num_macs=counts.num_macs,
        image_size=facts["image_size"],
        smallest_image=facts["smallest_image"],
        imagenet_here=_imagenet_here(name),
    )


@dataclass(frozen=True)
class Counts:
    """What is counted on a network at its default size, with a classifier of 1,000 classes."""

    num_parameters: int
    num_macs: int | None


def counts_of(name: str) -> Counts:
    """The counts of a backbone, which is built for that."""
    model = BACKBONES[name](
        image_size=BACKBONES.facts(name)["image_size"], num_classes=NUM_CLASSES, weights=None
    )
    return Counts(int(model.count_params()), count_macs(model))


def _imagenet_here(name: str) -> Here:
    find = BACKBONES.facts(name).get("find_imagenet")
    if find is None:
        return "none published"
    return "yes" if find() else "no"
