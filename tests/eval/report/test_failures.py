"""Where a file fails, on answers small enough to count."""

from pathlib import Path

import numpy as np
import pytest

from eval.report.costs import step_costs
from eval.report.failures import ClassFlips, Confusion, confusion_table, flips_by_class, galleries
from eval.scoring.accuracy import accuracy, compare
from eval.scoring.file_rows import FileRow
from eval.scoring.predictions import Photos
from support import latency_of

CLASSES = ["a", "b", "c"]
LABELS = np.array([0, 0, 0, 1, 1, 2])


def probabilities(answers: list[int], confidences: list[float]) -> np.ndarray:
    probs = np.full((len(answers), 3), 0.0)
    for row, answer, confidence in zip(probs, answers, confidences, strict=True):
        row[:] = (1 - confidence) / 2
        row[answer] = confidence
    return probs


def test_a_confusion_table_counts_photos_by_label_and_answer() -> None:
    table = confusion_table(np.array([0, 1, 1, 1, 0, 2]), LABELS, CLASSES)
    counts = [[cell.num_photos for cell in row.cells] for row in table.rows]
    assert counts == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert [row.share_right for row in table.rows] == [1 / 3, 1 / 2, 1]
    assert table.rows[0].cells[1].share == 2 / 3
    assert table.most_frequent == [Confusion("a", "b", 2), Confusion("b", "a", 1)]


def test_flips_are_counted_by_class_and_direction() -> None:
    source = np.array([0, 0, 1, 1, 2, 2])
    ours = np.array([0, 1, 0, 1, 0, 2])  # lost, won, and from wrong to wrong
    rows = flips_by_class(ours, source, LABELS, CLASSES)
    assert rows == [
        ClassFlips("a", num_photos=3, num_changed=2, num_lost=1, num_won=1),
        ClassFlips("b", num_photos=2, num_changed=1, num_lost=0, num_won=0),
    ]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths[1:]:  # the first is missing
        path.touch()
    return Photos("test", paths, LABELS)


def file_row_of(
    name: str,
    recipe: str,
    parent: str,
    probs: np.ndarray,
    *,
    size: int = 100,
    p50_ms: float = 1.0,
    parent_probs: np.ndarray | None = None,
) -> FileRow:
    return FileRow(
        name=name, path=name, format="onnx", recipe=recipe, parent=parent, file_bytes=size,
        zip_bytes=size, parity=None, latency=[latency_of(p50_ms)],
        accuracy=accuracy(probs, LABELS, split="test"),
        comparison=None if parent_probs is None else compare(probs, parent_probs, LABELS),
    )  # fmt: skip


def test_galleries_show_the_most_confident_first_and_count_missing_photos(photos: Photos) -> None:
    probs = {
        "teacher": probabilities([0, 0, 0, 1, 1, 2], [0.9] * 6),
        "student": probabilities([1, 1, 0, 1, 1, 2], [0.9] * 6),
        "x.tflite": probabilities([1, 2, 1, 1, 1, 2], [0.9, 0.6, 0.8, 0.9, 0.9, 0.9]),
    }
    files = [file_row_of("x.tflite", "tflite.int8", "student", probs["x.tflite"])]
    worst, teacher, parent = galleries("x.tflite", files, photos, CLASSES, probs)
    assert worst.num == 3
    assert [row.photo.name for row in worst.shown] == ["2.png", "1.png"]
    assert [(a.who, a.answer) for a in teacher.shown[0].answers] == [
        ("teacher", "a"),
        ("file", "b"),
    ]
    assert parent.num == 2
    assert "its parent student disagree" in parent.title
    assert galleries(None, files, photos, CLASSES, probs) == []


def test_steps_are_compared_with_what_they_started_from() -> None:
    parent_probs, file_probs = (
        probabilities([0, 0, 0, 1, 1, 2], [0.9] * 6),
        probabilities([1] * 6, [0.9] * 6),
    )

    def row(name: str, recipe: str, parent: str, size: int, p50_ms: float) -> FileRow:
        return file_row_of(
            name, recipe, parent, file_probs, size=size, p50_ms=p50_ms, parent_probs=parent_probs
        )

    files = [
        row("s32.onnx", "onnx.float32", "student", 400, 4.0),
        row("m32.onnx", "onnx.float32", "pruned", 200, 3.0),
        row("m8.onnx", "onnx.int8", "pruned", 50, 1.0),
    ]
    probs = {
        "student": parent_probs,
        "pruned": probabilities([0, 0, 1, 1, 0, 2], [0.9] * 6),
    }
    steps = step_costs(
        models=["student", "pruned"], files=files, chosen="m8.onnx", probs=probs, labels=LABELS
    )
    method, first, _, last = steps
    assert (method.before, method.after, method.kind) == ("student", "pruned", "method")
    assert method.drop == pytest.approx(2 / 6)
    assert (method.bytes_before, method.bytes_after) == (400, 200)
    assert (last.ms_before, last.ms_after) == (3.0, 1.0)
    assert first.bytes_before is None  # a float32 file has nothing before it
    assert [step.on_the_way for step in steps] == [True, False, False, True]
