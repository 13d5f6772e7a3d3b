"""The rule that puts a photo into the training, validation or test split."""

import hashlib

from distill.data.manifest import UNLABELLED
from distill.data.sources import Listing


def split_of(sha256: str, *, validation: float, test: float) -> str:
    """The split a photo belongs to: by its content alone, so renames and additions move nothing."""
    position = int(hashlib.sha256(f"split {sha256}".encode()).hexdigest()[:13], 16) / 16**13
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def carved(listing: Listing, sha256: str, validation: float, test: float) -> str:
    """Splits that have folders of their own get nothing from the train folder."""
    given = {split for _, _, split in listing.files if split} - {UNLABELLED}
    share = {"validation": validation, "test": test}
    return split_of(sha256, **{k: 0.0 if k in given else v for k, v in share.items()})
