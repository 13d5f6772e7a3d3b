"""`DataConfig`: where photos come from, and how they are split."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.loading.paths import UserPlace
from configs.records import Share, Strict
from configs.resume import Facts


class GroupConfig(Strict):
    """What tells the group of a photo: one of the two."""

    column: str | None = None
    """A column of a table or a feature of a data set: patient, animal, burst."""
    pattern: str | None = None
    """A regular expression that is searched in the path of a photo. Its one pair of parentheses
    holds the group."""

    @model_validator(mode="after")
    def _is_one(self) -> "GroupConfig":
        if (self.column is None) == (self.pattern is None):
            raise ValueError("expected parent, or one of group.column and group.pattern")
        if self.pattern is not None:
            try:
                num_groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"the pattern is not a regular expression: {error}") from None
            if num_groups != 1:
                raise ValueError(
                    f"the pattern has {num_groups} pairs of parentheses; expected one, round the "
                    "group. (?:...) groups without counting"
                )
        return self


class ColumnsConfig(Strict):
    """The columns of a table, or the features of a data set. null: found by name or type."""

    photo: str | None = None
    label: str | None = None
    split: str | None = None


class DataConfig(Strict):
    source: str = "folder"
    """Where photos come from. folder: one folder per class, or split folders (train/, test/ and the
    like) that hold one folder per class; or a file that one of the next four reads. archive: a ZIP
    or tar of such a folder. table: CSV or Parquet. numpy: an .npz of arrays. coco: the boxes of
    annotations. webdataset:PATTERN: tars of samples, as in shards/train-{000..009}.tar. hf:NAME and
    tfds:NAME: a data set of Hugging Face (or a folder with one) and of TensorFlow Datasets. digits:
    the handwritten digits of scikit-learn."""
    path: UserPlace | None = None
    """The folder or file of photos, relative to the folder in which the command runs; or its URL in
    object storage, such as s3://bucket/photos."""
    photos: UserPlace | None = None
    """The folder, or its URL, that paths in a table or in annotations are relative to. null: its
    own."""
    columns: ColumnsConfig = ColumnsConfig()
    unlabelled: UserPlace | None = None
    """A folder of more photos, or its URL, without labels. The teacher labels them for the
    student."""
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
    group: Literal["parent"] | GroupConfig | None = None
    """Photos of one group (a patient, an animal, a burst) stay on one side of every split. parent:
    the folder of a photo is its group. null: as the source says, if it does."""
    use_splits: bool = True
    """Use the splits that the source has. false: draw all splits anew."""
    near_duplicates: bool | None = None
    """Keep photos that are nearly the same on one side of every split, and list them in
    data/near_duplicates.csv. null: yes, except where an older version has split the photos."""

    @model_validator(mode="before")
    @classmethod
    def _absolute_folder(cls, values: Any) -> Any:
        """hf:FOLDER and webdataset:PATTERN mean the same wherever a command starts."""
        source = values.get("source") if isinstance(values, dict) else None
        if isinstance(source, str) and source.startswith("webdataset:") and source[11:]:
            return {**values, "source": f"webdataset:{Path(source[11:]).expanduser().absolute()}"}
        if isinstance(source, str) and source.startswith("hf:") and Path(source[3:]).is_dir():
            return {**values, "source": f"hf:{Path(source[3:]).resolve()}"}
        return values

    def as_input(self) -> Facts:
        """The section as an input of a step. Keys that older runs do not have count if set."""
        unset = {
            key for key in LATER_KEYS if getattr(self, key) == DataConfig.model_fields[key].default
        }
        return self.model_dump(mode="json", exclude=unset)


LATER_KEYS = ("labels_per_class", "photos", "columns", "group", "use_splits", "near_duplicates")
"""Keys that came later. While they have their defaults, runs of before stay up to date."""
