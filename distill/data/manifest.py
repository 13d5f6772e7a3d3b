"""The manifest of a run, data/manifest.csv: one row for each photo that is used."""

import csv
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from configs.artifacts import ending, read_json, write_csv
from configs.run_dir import RunDir
from distill.data.paths import PathsBelow, of_rows

SPLITS = ("train", "validation", "test")

UNLABELLED = "unlabelled"
"""The split of photos without labels, and of those whose labels are hidden
(`data.labels_per_class`). Only a student learns from them, through its teacher."""

NUM_SHOWN = 3
"""How many of the files that are not used are shown with their reasons."""

Labels = Literal["shown", "all"]


@dataclass(frozen=True, slots=True)
class Photo:
    """One row of the manifest.

    Attributes:
        path: relative to the root of the source, or absolute.
        label: the name of its class; "" for a photo without a label.
        width, height: in pixels, with the photo upright.
        sha256: the digest of the file's bytes.
        group: photos of one group are on one side of every split; "" for none.
    """

    path: str
    label: str
    split: str
    width: int
    height: int
    sha256: str
    group: str = ""

    @property
    def id(self) -> str:
        """The first 16 digits of `sha256`."""
        return self.sha256[:16]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not used.

    Attributes:
        is_lost_photo: a photo was expected here and cannot be read.
        is_unread_kind: no photo of its kind can be read here; `reason` says what to do.
        is_photo: it is one, or should be.
    """

    path: str
    reason: str
    is_lost_photo: bool = False
    is_unread_kind: bool = False
    is_photo: bool = True


@dataclass(frozen=True)
class Examples:
    """The photos of one or more splits, each split in the order of its ids.

    Attributes:
        paths: of their files; made as they are asked for, because a `Path` takes 600 bytes.
        labels: class indices, int32 (examples,); -1 for a photo without a label.
        classes: the names of all classes, in the order of their indices.
        empty_classes: the names of class folders without a usable photo; they are no classes.
    """

    ids: list[str]
    paths: Sequence[Path]
    labels: np.ndarray
    classes: list[str]
    empty_classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def with_labels(self) -> "Examples":
        """Those of the photos that have labels."""
        return self._rows(np.flatnonzero(self.labels >= 0).tolist())

    def share_of_each_class(self, share: float) -> "Examples":
        """This share of the photos of each class, at least one; a larger share holds a smaller."""
        rows: list[int] = []
        for label in np.unique(self.labels):
            of_class = sorted(
                np.flatnonzero(self.labels == label).tolist(), key=lambda row: self.ids[row]
            )
            rows += of_class[: max(round(share * len(of_class)), 1)]
        return self._rows(sorted(rows))

    def some(self, count: int) -> "Examples":
        """At most so many of the photos, always the same: their ids are random digests."""
        return self._rows(np.argsort(self.ids)[:count].tolist())

    def part(self, rows: range) -> "Examples":
        """The photos of these rows."""
        return self._rows(rows)

    def _rows(self, rows: Sequence[int]) -> "Examples":
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            paths=of_rows(self.paths, rows),
            labels=self.labels[rows],
        )


def count_endings(skipped: Iterable[Skipped]) -> dict[str, int]:
    """How many files of each ending are not used, the most frequent first."""
    return dict(Counter(ending(file.path) for file in skipped).most_common())


def describe_endings(num_by_ending: Mapping[str, int]) -> str:
    """`count_endings` in words, as in "30 .heic, 2 .txt"."""
    names = [f"{num} {name or 'without an ending'}" for name, num in num_by_ending.items()]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more kinds" if names[10:] else "")


def describe_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """Lines for the user: how many files are not used, why, and what to do about unread kinds."""
    if not skipped:
        return []
    lines = [f"skipped {len(skipped)} files: {describe_endings(count_endings(skipped))}"]
    by_reason: dict[str, list[Skipped]] = defaultdict(list)
    for file in skipped:
        if file.is_unread_kind:
            by_reason[file.reason].append(file)
    lines += [f"{describe_endings(count_endings(f))}: {reason}" for reason, f in by_reason.items()]
    lost_first = sorted(skipped, key=lambda file: not file.is_lost_photo)
    photos = [f for f in lost_first if not f.is_unread_kind and f.is_photo]
    return [*lines, *examples_of(photos)[:NUM_SHOWN]]


def examples_of(skipped: Sequence[Skipped]) -> list[str]:
    """One file of each reason, and the reason."""
    first = {file.reason: file for file in reversed(skipped)}
    return [f"{file.path}: {file.reason}" for file in reversed(first.values())]


def describe_empty(classes: Sequence[str]) -> str:
    """A sentence that names the class folders without a usable photo; "" if there are none."""
    if not classes:
        return ""
    names = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if classes[20:] else "")
    return f"These class folders are left out, because no photo in them can be used: {names}."


def write_manifest(run: RunDir, photos: list[Photo], skipped: list[Skipped]) -> list[Path]:
    """Write data/manifest.csv and data/skipped.csv; returns their paths."""
    skipped_csv = run.photos_manifest.with_name("skipped.csv")
    columns = ["id", *(field.name for field in fields(Photo))]
    if not any(photo.group for photo in photos):
        columns.remove("group")  # as in older runs, so that nothing is trained again
    rows = ([getattr(photo, name) for name in columns] for photo in photos)
    write_csv(run.photos_manifest, columns, rows)
    write_csv(skipped_csv, ["path", "reason"], ((s.path, s.reason) for s in skipped))
    return [run.photos_manifest, skipped_csv]


def write_near_duplicates(run: RunDir, near: Sequence[Sequence[Photo]]) -> Path:
    """Write data/near_duplicates.csv: photos of one number are nearly the same.

    The split of a photo that is left out is empty.
    """
    path = run.photos_manifest.with_name("near_duplicates.csv")
    rows = (
        (number, photo.path, photo.label, photo.split)
        for number, photos in enumerate(near, 1)
        for photo in photos
    )
    write_csv(path, ["number", "path", "label", "split"], rows)
    return path


def stored_root(run: RunDir, root: Path) -> str:
    """What the manifest says of the root: relative to its folder if the photos are in the run.

    So a run can be moved together with photos that were unpacked into it.
    """
    folder, root = run.photos_manifest.parent.resolve(), root.resolve()
    return str(root.relative_to(folder) if root.is_relative_to(folder) else root)


def load_examples(run: RunDir, *splits: str) -> Examples:
    """The photos of a run that belong to these splits, one split after the other.

    Raises:
        UserError: the run has no manifest yet.
    """
    return _examples(run, _photos(run, *splits))


def _photos(run: RunDir, *splits: str) -> Iterator[Photo]:
    """The photos of these splits, one split after the other, or all of them.

    The table is read anew for each split: memory holds one row at a time.
    """
    for split in splits or ("",):
        with open(run.photos_manifest, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            columns = next(rows)
            place = columns.index("split")
            for row in rows:
                if not split or row[place] == split:
                    yield _photo(dict(zip(columns, row, strict=True)))


def _examples(run: RunDir, photos: Iterable[Photo]) -> Examples:
    facts = read_json(run.photos_manifest.with_suffix(".json"))
    # Manifests of older versions do not name empty class folders.
    empty = facts.get("empty_classes", [])
    # An absolute path stays as it is: photos outside of the run, and runs of older versions.
    root = run.photos_manifest.parent / facts["root"]
    return make_examples(photos, root, facts["classes"], empty)


def photo_sides(run: RunDir) -> list[int]:
    """The shorter side of each photo, in pixels."""
    return [min(photo.width, photo.height) for photo in _photos(run)]


def student_examples(run: RunDir) -> Examples:
    """What a student learns from: the training photos, then the photos without labels."""
    others = (replace(photo, label="") for photo in _photos(run, UNLABELLED))
    return _examples(run, chain(_photos(run, "train"), others))


def teacher_examples(run: RunDir, labels: Labels = "shown") -> Examples:
    """What a teacher learns from: the training photos.

    Args:
        labels: "all" adds the photos whose labels are hidden.
    """
    splits = ("train",) if labels == "shown" else ("train", UNLABELLED)
    photos = (photo for photo in _photos(run) if photo.split in splits)
    return _examples(run, (photo for photo in photos if photo.label))


def with_hidden_labels(photos: Iterable[Photo], labels_per_class: int) -> list[Photo]:
    """The photos with all but some training photos of each class among those without labels.

    The digests of the photos decide which labels stay, so that more labels include fewer. They
    keep the names of their classes, for a teacher that knows them.
    """
    count: Counter[str] = Counter()
    result = []
    for photo in sorted(photos, key=lambda photo: photo.id):
        if photo.split == "train":
            count[photo.label] += 1
            is_hidden = count[photo.label] > labels_per_class
            photo = replace(photo, split=UNLABELLED) if is_hidden else photo
        result.append(photo)
    return result


def _photo(row: dict[str, str]) -> Photo:
    del row["id"]  # the start of the digest
    size = {side: int(row[side]) for side in ("width", "height")}
    return Photo(**{**row, **size})  # type: ignore[arg-type]


def make_examples(
    photos: Iterable[Photo], root: Path, classes: list[str], empty_classes: Sequence[str] = ()
) -> Examples:
    """Examples of these photos; `root` is what their paths are relative to."""
    indices = {"": -1, **{name: i for i, name in enumerate(classes)}}
    ids, names, labels = [], [], array("i")
    for photo in photos:
        ids.append(photo.id)
        names.append(photo.path)
        labels.append(indices[photo.label])
    return Examples(
        ids=ids,
        paths=PathsBelow(root, names),
        labels=np.array(labels, "int32"),
        classes=classes,
        empty_classes=tuple(empty_classes),
    )
