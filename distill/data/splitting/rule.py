"""The rule that puts a photo into the training, validation or test split."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from distill.data.sources.listing import Listing

IN_ORDER = ("test", "validation", "train")
"""The splits in the order of positions from 0 to 1."""


@dataclass(frozen=True)
class SplitRule:
    """Which shares of the photos are for validation and test; the rest is for training.

    Attributes:
        validation, test: shares, 0..1.
    """

    validation: float
    test: float

    def split_of(self, sha256: str) -> str:
        """The split of a photo, by its content alone: renames and additions move no photo."""
        position = _position(sha256)
        if position < self.test:
            return "test"
        return "validation" if position < self.test + self.validation else "train"

    def splits_of_class(self, sha256s: Iterable[str]) -> dict[str, str]:
        """The splits of all photos of one class: `split_of`, but no split stays empty.

        A split without a photo takes one from a split that keeps another one: from training if
        possible, from test last. It takes the photo that is next to it in the order of positions.
        So as many photos move as splits were empty, and none where no split was.

        A photo that is added to a class with a photo in every split moves no other one. In a class
        with an empty split it moves two others at most. A class with fewer photos than splits has
        at least its training photo.
        """
        ordered = sorted(sha256s, key=_position)
        splits = {sha256: self.split_of(sha256) for sha256 in ordered}
        # A split with a share of 0 has a folder of its own.
        shares = {"test": self.test, "validation": self.validation, "train": 1.0}
        to_fill = [name for name in IN_ORDER if shares[name]]
        num_kept = 1
        if len(ordered) < len(to_fill):
            to_fill, num_kept = ["train"], 0
        for split in to_fill:
            num = Counter(splits.values())
            if num[split]:
                continue
            donor = next(name for name in reversed(IN_ORDER) if num[name] > num_kept)
            photos = [sha256 for sha256 in ordered if splits[sha256] == donor]
            comes_after = IN_ORDER.index(donor) > IN_ORDER.index(split)
            splits[photos[0] if comes_after else photos[-1]] = split
        return splits

    def beside_folders(self, listing: Listing) -> "SplitRule":
        """The rule for the train folder: a split that has its own folder takes nothing from it."""
        with_folder = {file.split for file in listing.files}
        no_share = {name: 0.0 for name in ("validation", "test") if name in with_folder}
        return replace(self, **no_share)


def _position(sha256: str) -> float:
    """Where a photo lies between 0 and 1, by its content."""
    return int(hashlib.sha256(f"split {sha256}".encode()).hexdigest()[:13], 16) / 16**13
