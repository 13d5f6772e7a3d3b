"""The manifest of a run: one row for each usable photo, and how it is read."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.artifacts import (
    read_json,
    write_text,
)
from configs.run_dir import RunDir

SPLITS = ("train", "validation", "test")


UNLABELLED = "unlabelled"
"""The split of photos that the student learns from through its teacher alone."""


@dataclass(frozen=True)
class Photo:
    """One row of the manifest; `id` is the start of `sha256`, the digest of the file's bytes."""

    id: str
    path: str
    label: str
    split: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why; `unusable` where a photo was expected."""

    path: str
    reason: str
    unusable: bool = False


@dataclass(frozen=True)
class Examples:
    """Photos of one split: ids, files and class indices, in the order of their ids.

    Attributes:
        labels: int32, (examples,); -1 for a photo without a label.
    """

    ids: list[str]
    paths: list[Path]
    labels: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def write_manifest(run: RunDir, photos: list[Photo], skipped: list[Skipped]) -> list[Path]:
    """Write data/manifest.csv and data/skipped.csv; returns their paths."""
    columns = list(Photo.__dataclass_fields__)
    rows = [[getattr(photo, column) for column in columns] for photo in photos]
    skipped_csv = run.photos_manifest.with_name("skipped.csv")
    write_text(run.photos_manifest, _csv(columns, rows))
    write_text(skipped_csv, _csv(["path", "reason"], [[s.path, s.reason] for s in skipped]))
    return [run.photos_manifest, skipped_csv]


def _csv(columns: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue()


def load_examples(run: RunDir, *splits: str) -> Examples:
    """The photos of one split of a run, or of several, one behind the other.

    Raises:
        UserError: the run has no manifest yet.
    """
    facts = read_json(run.photos_manifest.with_suffix(".json"))
    with open(run.photos_manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [row for split in splits for row in rows if row["split"] == split]
    return make_examples(rows, Path(facts["root"]), facts["classes"])


def make_examples(rows: Iterable[dict[str, str]], root: Path, classes: list[str]) -> Examples:
    """Examples of manifest rows (as dictionaries of their columns)."""
    rows = list(rows)
    number = {"": -1, **{name: i for i, name in enumerate(classes)}}
    return Examples(
        ids=[row["id"] for row in rows],
        paths=[root / row["path"] for row in rows],
        labels=np.array([number[row["label"]] for row in rows], "int32"),
        classes=classes,
    )
