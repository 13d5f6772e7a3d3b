"""The rule that puts a photo into the training, validation or test split."""

import hashlib
from dataclasses import dataclass, replace

from distill.data.sources import Listing


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
        position = int(hashlib.sha256(f"split {sha256}".encode()).hexdigest()[:13], 16) / 16**13
        if position < self.test:
            return "test"
        return "validation" if position < self.test + self.validation else "train"

    def beside_folders(self, listing: Listing) -> "SplitRule":
        """The rule for the train folder: a split that has its own folder takes nothing from it."""
        with_folder = {file.split for file in listing.files}
        no_share = {name: 0.0 for name in ("validation", "test") if name in with_folder}
        return replace(self, **no_share)
