"""Runs that are killed in every kind of step, against the undisturbed one.

Every run is killed by SIGKILL once in each kind of step, asked to end by SIGTERM in some, and loses
its connection to the device once. Every fault adds a line to OUT/kills.jsonl, so a script that was
stopped goes on where it was.

    PYTHONPATH=.:tests python -m faults.kill_runs OUT --runs 10    # ten runs of eleven kills
    PYTHONPATH=.:tests python -m faults.kill_runs OUT --table      # what came of them
"""

import argparse
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from faults.whole_run import (
    Results,
    Stretch,
    Target,
    all_kinds,
    differences,
    finish,
    prepared,
    targets,
    undisturbed,
    with_fault,
)
from ssh_server import Server

KILL, TERM, CUT = "SIGKILL", "SIGTERM", "cut connection"
TERMS_PER_RUN = 3
SECONDS_TO_END = 10.0
"""How long a process may take after SIGTERM."""
UNDISTURBED = "undisturbed"

Fault = Callable[[subprocess.Popen[bytes]], dict[str, Any]]


def send(number: int, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Send a signal; returns how long the process took to end."""
    start = time.monotonic()
    process.send_signal(number)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
    return {"end_seconds": round(time.monotonic() - start, 2)}


def cut(server: Server, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Cut the connections to the board, and let the process finish its command."""
    server.cut()
    process.wait()
    return {}


def plan(stretches: list[Stretch], run: int, kinds: list[str]) -> list[tuple[str, Target]]:
    """The faults of a run, in the order of the work."""
    terms = random.Random(run).sample(kinds, min(TERMS_PER_RUN, len(kinds)))
    faults = [(KILL, target) for target in targets(stretches, kinds=kinds, seed=2 * run)]
    faults += [(TERM, target) for target in targets(stretches, kinds=terms, seed=2 * run + 1)]
    faults.sort(key=lambda fault: stretches.index(fault[1].stretch))
    # The process whose connection is cut finishes its command, so that comes after the kills.
    remote = [stretch for stretch in stretches if stretch.step.startswith("latency on ssh")]
    if "latency" in kinds:
        place = sum(stretches.index(t.stretch) <= stretches.index(remote[0]) for _, t in faults)
        faults.insert(place, (CUT, Target(remote[0], random.Random(run).uniform(0, 1))))
    return faults


def disturbed(
    out: Path,
    run: int,
    results: Results,
    stretches: list[Stretch],
    kinds: list[str],
    server: Server,
) -> None:
    """Take a run to its end through the faults of its plan that are not in the results yet."""
    folder = out / f"run-{run}"
    number = sum(row["run"] == run for row in results.rows)
    command = 0
    makers: dict[str, Fault] = {
        KILL: partial(send, signal.SIGKILL),
        TERM: partial(send, signal.SIGTERM),
        CUT: partial(cut, server),
    }
    for fault, target in plan(stretches, run, kinds)[number:]:
        while command < target.stretch.command:
            finish(out, folder, command=command)
            command += 1
        row = with_fault(out, folder, target, makers[fault])
        results.add({"run": run, "fault": fault, **row})
        print(results.rows[-1], flush=True)
    redone = [name for command in range(2) for name in finish(out, folder, command=command)]
    problems = [*differences(folder, out / UNDISTURBED), *(f"{name} was redone" for name in redone)]
    results.add({"run": run, "fault": "end", "differences": problems})
    print(results.rows[-1], flush=True)
    if not problems:
        shutil.rmtree(folder)


def problems_of(row: dict[str, Any]) -> list[str]:
    """What is wrong with the row of a fault."""
    if row["fault"] == "end":
        return list(row["differences"])
    problems = [f"{name} was redone" for name in row["redone"]]
    if row["traceback"]:
        problems.append("a traceback was shown")
    if row["fault"] == CUT and len(row["errors"]) == 1 and "cannot be reached" in row["errors"][0]:
        pass  # it was cut while it opened: the command says so, and ends
    elif not row["came"] or row["fault"] == CUT:
        problems += [f"exit code {row['code']}"] if row["code"] else []
    elif row["fault"] == TERM:
        if row["end_seconds"] > SECONDS_TO_END:
            problems.append(f"it took {row['end_seconds']} s to end")
        # Behind its last step, a process has no more to say: only Python is still at work.
        is_done = row["kind"] == "report" and row["code"] == -signal.SIGTERM
        if len(row["errors"]) != (0 if is_done else 1):
            problems.append(f"{len(row['errors'])} errors were shown")
    return problems


def table(rows: list[dict[str, Any]]) -> str:
    """Faults by kind of step, and all that was wrong, as Markdown."""
    faults = [row for row in rows if row["fault"] != "end" and row["came"]]
    lines = [
        "| kind of step | SIGKILL | SIGTERM | slowest end, s | cut connections |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in faults):
        own = [row for row in faults if row["kind"] == kind]
        count = {f: sum(row["fault"] == f for row in own) for f in (KILL, TERM, CUT)}
        slowest = max((row["end_seconds"] for row in own if row["fault"] == TERM), default="")
        lines.append(f"| {kind} | {count[KILL]} | {count[TERM]} | {slowest} | {count[CUT]} |")
    ends = [row for row in rows if row["fault"] == "end"]
    kills = sum(row["fault"] == KILL for row in faults)
    missed = sum(row["fault"] != "end" and not row["came"] for row in rows)
    lines.append(f"\n{kills} kills in {len(ends)} finished runs; {missed} moments came too late.")
    wrong = [f"run {r['run']}, {r['fault']}: {p}" for r in rows for p in problems_of(r)]
    return "\n".join([*lines, *(wrong or ["Nothing differs from the undisturbed run."])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kinds", nargs="*", help="Only these kinds of steps.")
    parser.add_argument("--table", action="store_true", help="Only print the results.")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "kills.jsonl")
    if not arguments.table:
        with prepared(out) as server:
            stretches = undisturbed(out, UNDISTURBED)
            for run in range(1, arguments.runs + 1):
                if not any(r["run"] == run and r["fault"] == "end" for r in results.rows):
                    kinds = arguments.kinds or all_kinds(stretches)
                    disturbed(out, run, results, stretches, kinds, server)
    print(table(results.rows))


if __name__ == "__main__":
    main()
