"""Runs side by side: what cannot be compared is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands.tables import runs_table
from configs.artifacts import write_json
from configs.errors import UserError
from configs.run_dir import RunDir
from eval.choice.compare import compare_runs
from eval.scoring.significance import mcnemar_p

LABELS = np.array([0, 1] * 20)


def make_run(
    path: Path,
    *,
    wrong: range,
    photos: str = "one",
    cpu: str = "a",
    chosen: str | None = "a.onnx",
    **latency: Any,
) -> RunDir:
    """A run whose file answers 40 test photos, those of `wrong` wrongly."""
    run = RunDir(path)
    top1 = 1 - len(wrong) / 40
    scores = {"top1": top1, "top1_low": 0.0, "top1_high": 1.0, "drop_vs_student": 0.0}
    file = {
        "name": "a.onnx",
        "file_bytes": 9,
        "accuracy": scores,
        "latency": [{"p50_ms": 1.5, **latency}],
    }
    write_json(
        path / "report.json",
        {
            "run": path.name,
            "data": {"num_test": 40},
            "machine": {"cpu": cpu},
            "models": [{"name": "student", "accuracy": {"top1": top1}}],
            "files": [file],
            "verdict": {"chosen_file": chosen},
        },
    )
    answers = LABELS.copy()
    answers[list(wrong)] ^= 1
    run.predictions("a.onnx").parent.mkdir(parents=True)
    np.savez(run.predictions("a.onnx"), test=np.eye(2)[answers])
    run.photos_manifest.parent.mkdir()
    run.photos_manifest.write_text(photos)
    return run


def test_runs_on_the_same_photos_are_compared_photo_by_photo(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", wrong=range(10))
    second = make_run(tmp_path / "second", wrong=range(8, 10))
    rows = compare_runs([first, second], lambda run: LABELS)
    assert [row.run for row in rows] == ["first", "second"]
    assert [row.top1 for row in rows] == [0.75, 0.95]
    assert [row.p50_ms for row in rows] == [1.5, 1.5]
    assert rows[0].mcnemar_p is None
    assert rows[1].mcnemar_p == pytest.approx(mcnemar_p(8, 0))
    assert rows[0].control_top1 is None


def test_what_cannot_be_compared_is_left_out(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", wrong=range(10))
    elsewhere = make_run(tmp_path / "elsewhere", wrong=range(5), cpu="b")
    others = make_run(tmp_path / "others", wrong=range(5), photos="two")
    rows = compare_runs([first, elsewhere, others], lambda run: LABELS)
    assert rows[1].p50_ms is None  # timed on another machine
    assert rows[1].unlike == ["cpu b, not a"]
    assert rows[1].mcnemar_p is not None
    assert rows[2].p50_ms == 1.5
    assert rows[2].mcnemar_p is None  # tested on other photos


TIMED: dict[str, Any] = {
    "device": "local",
    "runtime": "litert 2.3.0",
    "num_threads": 1,
    "state": {"cpu": "a", "governor": "performance", "load": 0.1},
}


@pytest.mark.parametrize(
    ("changed", "unlike"),
    [
        ({}, []),
        ({"state": {"cpu": "a", "governor": "performance", "load": 0.9}}, []),
        ({"state": {"cpu": "a"}}, []),  # a condition that one report lacks is not compared
        ({"state": {"cpu": "a", "governor": None}}, []),
        ({"runtime": "onnxruntime 1.31.1"}, []),  # a file of the other format
        ({"runtime": "litert 2.2.0"}, ["litert 2.2.0, not 2.3.0"]),
        ({"num_threads": 4}, ["num_threads 4, not 1"]),
        (
            {"state": {"cpu": "b", "governor": "powersave"}},
            ["cpu b, not a", "governor powersave, not performance"],
        ),
    ],
)
def test_latencies_of_unlike_states_are_left_out_unless_asked_for(
    tmp_path: Path, changed: dict[str, Any], unlike: list[str]
) -> None:
    first = make_run(tmp_path / "first", wrong=range(10), **TIMED)
    other = make_run(tmp_path / "other", wrong=range(10), **{**TIMED, **changed})
    for any_state in (False, True):
        rows = compare_runs([first, other], lambda run: LABELS, any_state=any_state)
        assert rows[1].unlike == unlike
        assert rows[1].p50_ms == (None if unlike and not any_state else 1.5)
        assert ("first (" in runs_table(rows)) == bool(unlike)
    assert rows[0].unlike == []


def test_a_run_that_chose_nothing_is_a_mistake(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", wrong=range(0), chosen=None)
    with pytest.raises(UserError, match="chose no file"):
        compare_runs([run], lambda run: LABELS)


def test_a_folder_without_a_report_is_a_mistake(program, tmp_path: Path) -> None:
    outcome = program("evaluate", "compare", tmp_path)
    assert outcome.code == 2
    assert "report.json is missing" in outcome.err
