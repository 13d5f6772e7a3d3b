"""The script that disturbs whole runs: which moments it chooses, and what it calls wrong."""

from typing import Any

import pytest

from faults.kill_runs import CUT, KILL, TERM, plan, problems_of, table
from faults.whole_run import Stretch, kind_of, steps_begun, targets

STRETCHES = [
    Stretch(0, "data", 2.0),
    Stretch(0, "teacher", 8.0),
    Stretch(0, "student", 5.0),
    Stretch(0, "control-2", 5.0),
    Stretch(0, "latency on ssh:board", 3.0),
    Stretch(0, "report", 0.5),
    Stretch(1, "1 of 2", 10.0),
]
KINDS = ["data", "teacher", "student", "latency", "report", "tune"]
ROW = {
    "run": 1, "fault": KILL, "kind": "teacher", "step": "teacher", "seconds": 1.0, "came": True,
    "code": -9, "errors": ["error: killed"], "traceback": False, "redone": [], "end_seconds": 0.1,
}  # fmt: skip
ASKED = {"fault": TERM, "code": 143}


def test_steps_inside_a_trial_are_part_of_it() -> None:
    lines = [
        "data: working",
        "teacher: up to date",
        "trial 3 (1 of 2): width 8",
        "student: working",
    ]
    assert steps_begun((line, float(i)) for i, line in enumerate(lines)) == [
        ("data", 0.0),
        ("1 of 2", 2.0),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_run_is_killed_once_in_each_kind_of_work_in_its_order(seed: int) -> None:
    chosen = targets(STRETCHES, kinds=KINDS, seed=seed)
    assert [target.stretch.kind for target in chosen] == KINDS
    assert all(0 <= target.seconds <= target.stretch.seconds for target in chosen)


@pytest.mark.parametrize("run", range(1, 6))
def test_the_connection_is_cut_while_the_board_measures(run: int) -> None:
    faults = plan(STRETCHES, run, KINDS)
    places = [STRETCHES.index(target.stretch) for _, target in faults]
    assert places == sorted(places)
    count = {fault: sum(name == fault for name, _ in faults) for fault in (KILL, TERM, CUT)}
    assert count == {KILL: len(KINDS), TERM: 3, CUT: 1}
    (cut,) = [target for fault, target in faults if fault == CUT]
    assert cut.stretch.step == "latency on ssh:board"


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({}, []),
        ({"redone": ["teacher"]}, ["teacher was redone"]),
        ({"traceback": True}, ["a traceback was shown"]),
        (ASKED, []),
        ({**ASKED, "end_seconds": 10.5}, ["it took 10.5 s to end"]),
        ({**ASKED, "errors": []}, ["0 errors were shown"]),
        ({**ASKED, "kind": "report", "code": -15, "errors": []}, []),
        ({"fault": CUT, "code": 0, "errors": []}, []),
        ({"fault": CUT, "code": 1, "errors": ["error: board cannot be reached: closed"]}, []),
        ({"fault": CUT, "code": 1, "errors": ["error: no"]}, ["exit code 1"]),
        ({"came": False, "code": 1}, ["exit code 1"]),
        ({"fault": "end", "differences": ["report.json differs"]}, ["report.json differs"]),
    ],
)
def test_what_is_wrong_is_said(changed: dict[str, Any], problems: list[str]) -> None:
    assert problems_of({**ROW, **changed}) == problems


def test_the_table_counts_faults_where_they_came() -> None:
    rows = [ROW, {**ROW, **ASKED, "end_seconds": 2.5}, {**ROW, "kind": kind_of("data")}]
    text = table(
        [*rows, {**ROW, "came": False, "code": 0}, {"run": 1, "fault": "end", "differences": []}]
    )
    assert "| teacher | 1 | 1 | 2.5 | 0 |" in text
    assert "| data | 1 | 0 |  | 0 |" in text
    assert "2 kills in 1 finished runs; 1 moments came too late." in text
    assert text.endswith("Nothing differs from the undisturbed run.")
