"""`DataConfig`: where photos come from, and how they are split."""

from typing import Annotated

from pydantic import Field

from configs.loading.paths import UserPath
from configs.records import Share, Strict


class DataConfig(Strict):
    source: str = "folder"
    """Where photos come from. folder: one folder per class, or split folders (train/, test/ and the
    like) that hold one folder per class. digits: the handwritten digits of scikit-learn."""
    path: UserPath | None = None
    """The folder of photos, relative to the folder in which the command runs."""
    unlabelled: UserPath | None = None
    """A folder of more photos, without labels. The teacher labels them for the student."""
    labels_per_class: Annotated[int, Field(gt=0)] | None = None
    """Hide the labels of all training photos but this many of each class, to see what labels are
    worth. The student learns from the others as from photos without labels."""
    validation: Share = 0.1
    """Share of the photos that decide between models."""
    test: Share = 0.2
    """Share of the photos that only the report uses."""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The run stops if a larger share of the photos cannot be used: damaged ones, and kinds that
    are not read, such as RAW."""
