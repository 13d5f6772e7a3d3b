"""A disk that is full at random moments of a run: one sentence, and the same command goes on.

The run and its temporary files lie on a small file system of their own, so this needs root. Every
moment adds a line to OUT/full_disk.jsonl, so a script that was stopped goes on with the next run.

    PYTHONPATH=.:tests python -m faults.full_disk OUT --moments 20
    PYTHONPATH=.:tests python -m faults.full_disk OUT --table
"""

import argparse
import random
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from faults.small_disk import FILLER, fill, small_disk
from faults.whole_run import (
    Results,
    all_kinds,
    differences,
    finish,
    prepared,
    targets,
    undisturbed,
    with_fault,
)

KILOBYTES = 256 * 1024
MOMENTS_PER_RUN = 5
UNDISTURBED = "undisturbed"


def full(disk: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Keep the disk full until the process has ended."""
    while process.poll() is None:
        fill(disk)
        time.sleep(0.01)
    return {}


def disturbed(out: Path, run: int, results: Results, *, num_moments: int) -> None:
    """Take a run to its end, with a full disk at random moments, most of them in trainings."""
    stretches = undisturbed(out, UNDISTURBED)
    kinds = all_kinds(stretches)
    with small_disk(out / "disk", kilobytes=KILOBYTES) as disk:
        folder, temporary = disk / f"run-{run}", disk / "tmp"
        temporary.mkdir()
        command = 0
        for target in targets(
            stretches, kinds=random.Random(run).sample(kinds, num_moments), seed=run
        ):
            while command < target.stretch.command:
                finish(out, folder, command=command)
                command += 1
            environment = {"TMPDIR": str(temporary)}
            row = with_fault(out, folder, target, partial(full, disk), environment)
            (disk / FILLER).unlink(missing_ok=True)
            results.add({"run": run, **row, "left": sorted(p.name for p in temporary.iterdir())})
            print(results.rows[-1], flush=True)
        redone = [name for command in range(2) for name in finish(out, folder, command=command)]
        problems = [
            *differences(folder, out / UNDISTURBED),
            *(f"{name} was redone" for name in redone),
        ]
        if problems:
            shutil.copytree(folder, out / folder.name, symlinks=True, dirs_exist_ok=True)
    results.add({"run": run, "differences": problems})
    print(results.rows[-1], flush=True)


def problems_of(row: dict[str, Any]) -> list[str]:
    """What is wrong with the row of a moment, or of the end of a run."""
    if "differences" in row:
        return list(row["differences"])
    problems = [f"{name} was redone" for name in row["redone"]]
    if row["traceback"]:
        problems.append("a traceback was shown")
    if row["code"] and [line[:32] for line in row["errors"]] != [
        "error: no space left on the disk"
    ]:
        problems.append(f"exit code {row['code']}, errors: {row['errors']}")
    return problems


def table(rows: list[dict[str, Any]]) -> str:
    """The moments by kind of step, and all that was wrong, as Markdown."""
    moments = [row for row in rows if row.get("came")]
    lines = [
        "| kind of step | moments | ended with one sentence | needed no space |",
        "|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in moments):
        own = [row for row in moments if row["kind"] == kind]
        ended = sum(row["code"] != 0 for row in own)
        lines.append(f"| {kind} | {len(own)} | {ended} | {len(own) - ended} |")
    num_ends = sum("differences" in row for row in rows)
    lines.append(f"\n{len(moments)} moments in {num_ends} finished runs.")
    wrong = [f"run {row['run']}: {problem}" for row in rows for problem in problems_of(row)]
    return "\n".join([*lines, *(wrong or ["Nothing differs from the undisturbed run."])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--moments", type=int, default=20, help="At least so many.")
    parser.add_argument("--table", action="store_true", help="Only print the results.")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "full_disk.jsonl")
    while not arguments.table:
        ended = {row["run"] for row in results.rows if "differences" in row}
        done = [row for row in results.rows if row.get("came") and row["run"] in ended]
        num_left = arguments.moments - len(done)
        if num_left <= 0:
            break
        # The disk of a run that was broken off is gone.
        run = 1 + max((row["run"] for row in results.rows), default=0)
        with prepared(out):
            disturbed(out, run, results, num_moments=min(num_left, MOMENTS_PER_RUN))
    print(table(results.rows))


if __name__ == "__main__":
    main()
