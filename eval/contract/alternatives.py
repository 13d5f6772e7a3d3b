"""Contracts that a model may have instead, and the options that lead to them."""

from collections.abc import Callable, Iterator

from configs.contract import RANGES, InputContract, Pixels
from eval.contract.foreign_metadata import natural_order


def alternatives(
    contract: InputContract,
    classes: list[str],
    looks_alike: Callable[[InputContract, InputContract], bool],
) -> Iterator[InputContract]:
    """Contracts that differ in one field, the likeliest first.

    Args:
        classes: of the photos, in alphabetical order.
        looks_alike: whether two contracts fit all photos in the same way.
    """
    is_grey = contract.channels == "grey"
    if not is_grey:
        other = "rgb" if contract.channels == "bgr" else "bgr"
        yield contract.changed("auto", channels=other)
    for name, pixels in RANGES.items():
        channels = contract.channels
        if is_grey:
            pixels = _of_grey(pixels)
        if name == "caffe" and not is_grey:
            channels = "bgr"
        if (pixels, channels) != (contract.pixels, contract.channels):
            colours = {} if channels == contract.channels else {"channels": channels}
            yield contract.changed("auto", pixels=pixels, **colours)
    for fit in ("crop", "stretch", "pad"):
        changed = contract.changed("auto", fit=fit)
        if fit != contract.fit and not looks_alike(changed, contract):
            yield changed
    for labels in (tuple(classes), tuple(natural_order(classes))):
        names = contract.labels or tuple(classes)
        if len(labels) == len(names) and labels != names:
            yield contract.changed("auto", labels=labels)


def _of_grey(pixels: Pixels) -> Pixels:
    """The same range for one channel: with the means of its three numbers."""
    mean, std = sum(pixels.mean) / 3, sum(pixels.std) / 3
    return Pixels((mean,) * 3, (std,) * 3)


def options_between(old: InputContract, new: InputContract) -> str:
    """The options that lead from one contract to another."""
    words = []
    is_caffe = new.pixels == RANGES["caffe"] and new.channels == "bgr"
    if new.pixels != old.pixels or is_caffe != (new.pixels == RANGES["caffe"]):
        if new.pixels.name in RANGES and (is_caffe or new.pixels != RANGES["caffe"]):
            words.append(f"--pixels {new.pixels.name}")
        else:
            count = 1 if new.channels == "grey" else 3
            mean, std = (
                ",".join(f"{value:g}" for value in values[:count])
                for values in (new.pixels.mean, new.pixels.std)
            )
            words.append(f"--mean {mean} --std {std}")
    if new.channels != old.channels and not (is_caffe and words):
        words.append(f"--channels {new.channels}")
    if new.fit != old.fit:
        words.append(f"--fit {new.fit}")
    if new.labels != old.labels and new.labels:
        is_sorted = list(new.labels) == sorted(new.labels)
        words.append(f"--labels {'alphabetical' if is_sorted else 'natural'}")
    return " ".join(words)
