"""data.labels_per_class: labels that are hidden from the student."""

from pathlib import Path

import numpy as np
import pytest

from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.manifest import load_examples, student_examples, teacher_examples
from distill.data.scan import data_step
from support import save_photo


@pytest.fixture
def scanned(photo_folder: Path, tmp_path: Path):
    """A function from the settings of a run to the run, with its photos in their splits."""
    further = tmp_path / "further"
    for number in range(3):
        save_photo(further / f"{number}.png", seed=5000 + number)

    def scan(labels_per_class: int | None, *, unlabelled: bool = False) -> RunDir:
        run = RunDir(tmp_path / f"run-{labels_per_class}-{unlabelled}")
        data = DataConfig(
            path=photo_folder,
            unlabelled=further if unlabelled else None,
            labels_per_class=labels_per_class,
        )
        take_step(data_step(run, data))
        return run

    return scan


def test_the_other_photos_lose_their_labels_and_stay(scanned) -> None:
    whole, few = scanned(None), scanned(5)
    shown = load_examples(few, "train")
    assert np.bincount(shown.labels).tolist() == [5, 5]
    student = student_examples(few)
    assert sorted(student.ids) == sorted(load_examples(whole, "train").ids)
    assert student.labels[:10].tolist() == shown.labels.tolist()
    assert set(student.labels[10:]) == {-1}
    assert student.with_labels().ids == shown.ids
    for split in ("validation", "test"):
        assert load_examples(few, split).ids == load_examples(whole, split).ids


def test_more_labels_include_fewer(scanned) -> None:
    few, more = (set(load_examples(scanned(n), "train").ids) for n in (5, 9))
    assert few < more
    every = set(load_examples(scanned(1000), "train").ids)
    assert every == set(load_examples(scanned(None), "train").ids)


def test_a_teacher_may_know_the_hidden_labels_but_not_those_that_nobody_knows(scanned) -> None:
    whole, few = scanned(None), scanned(5, unlabelled=True)
    assert teacher_examples(few).ids == load_examples(few, "train").ids
    known, right = teacher_examples(few, "all"), load_examples(whole, "train")
    assert dict(zip(known.ids, known.labels, strict=True)) == dict(
        zip(right.ids, right.labels, strict=True)
    )
    assert len(student_examples(few)) == len(known) + 3


def test_a_run_without_hidden_labels_is_the_run_that_it_was(scanned, photo_folder: Path) -> None:
    """A new key of the config does not make finished steps stale."""
    step = data_step(scanned(None), DataConfig(path=photo_folder))
    assert "labels_per_class" not in step.inputs["data"]


def test_a_larger_share_of_the_labels_holds_a_smaller_one(scanned) -> None:
    examples = teacher_examples(scanned(5), "all")
    quarter, half = (examples.share_of_each_class(share) for share in (0.25, 0.5))
    assert set(quarter.ids) < set(half.ids) < set(examples.ids)
    for part, share in ((quarter, 0.25), (half, 0.5)):
        expected = np.round(share * np.bincount(examples.labels))
        np.testing.assert_array_equal(np.bincount(part.labels), expected)
        rows = [examples.ids.index(name) for name in part.ids]
        np.testing.assert_array_equal(part.labels, examples.labels[rows])
    assert examples.share_of_each_class(1.0).ids == examples.ids
    assert len(examples.share_of_each_class(0.001)) == len(examples.classes)
    # Those that labels_per_class shows are among the first.
    assert set(teacher_examples(scanned(5)).ids) <= set(half.ids)
