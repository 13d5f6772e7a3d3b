"""Fuzz Potstill: thousands of mutated inputs of a kind, and every fault as a line of JSON.

    python tests/fuzz/run.py photos --count 10000 --seed 1
    python tests/fuzz/run.py photos=2000 keras=500
    python tests/fuzz/run.py photos --count 200 --seed 1 --command
    python tests/fuzz/run.py photos --seed 1 --only 4711

The first two give the inputs to functions in forked processes, the third to whole commands. They
go on where they stopped. The last repeats one input and keeps it. Exit code 1: there are faults.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from fuzz.harness import (  # noqa: E402
    FINE,
    MAX_GROWTH_BYTES,
    MAX_SECONDS,
    Outcome,
    fuzz,
    make_input,
    write_seeds,
)  # fmt: skip
from fuzz.kinds import KINDS  # noqa: E402
from fuzz.kinds.texts import check_ending  # noqa: E402

MAX_ADDRESS_SPACE = 16 * MAX_GROWTH_BYTES


def through_the_command(
    name: str, numbers: Iterable[int], *, seed: int, work: Path
) -> Iterator[Outcome]:
    """The outcomes of inputs that are given to the program itself, in a process of its own."""
    kind, seeds = KINDS[name], write_seeds(name, KINDS[name], work)
    for number in numbers:
        folder = work / "commands" / "a" / "b" / str(number)
        folder.mkdir(parents=True)
        words = kind.words(make_input(name, kind, number, seed=seed, seeds=seeds, folder=folder))
        start = time.monotonic()
        what, text = _ended(words, folder)
        seconds = round(time.monotonic() - start, 1)
        if list((work / "commands").rglob("canary")) or list((work / "commands").rglob("escaped*")):
            what = "executed"
        shutil.rmtree(work / "commands")
        yield Outcome(number, what, text, seconds)


def _ended(words: list[str], folder: Path) -> tuple[str, str]:
    program, *arguments = words
    code = f"import sys; from cli import {program}; sys.argv[0] = '{program}'; {program}()"
    try:
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
            timeout=MAX_SECONDS,
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE)
            ),
        )
    except subprocess.TimeoutExpired:
        return "hang", " ".join(words)
    # Without a command, a program prints its help.
    err = (result.stderr if arguments else result.stdout).decode(errors="replace")
    if result.returncode < 0:
        return FINE[2] if "crashed while it opened" in err else "crash", err[-1500:]
    try:
        check_ending(result.returncode, err)
    except AssertionError as error:
        return "unclear", f"{words}\n{error}"
    return ("refused" if result.returncode else "accepted"), err[-300:]


def stored_outcomes(path: Path, name: str, seed: int, by: str) -> list[Outcome]:
    """The faults that a file holds, and the outcomes without faults by number alone."""
    outcomes = []
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        if (row.pop("kind"), row.pop("seed"), row.pop("by")) == (name, seed, by):
            outcomes.append(Outcome(**row))
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="+", metavar="KIND[=COUNT]", help=f"all, {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--command", action="store_true", help="through the program itself")
    parser.add_argument("--only", type=int, help="make and try one input, and keep it")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fuzz")
    options = parser.parse_args()
    # Paths reach other processes, which have other folders of their own.
    work = options.work.absolute()
    words = list(KINDS) if options.kinds == ["all"] else options.kinds
    if options.only is not None:
        return repeat(words[0], options.only, seed=options.seed, work=work)
    num_faults = 0
    for word in words:
        name, _, count = word.partition("=")
        num_faults += run(
            name,
            int(count or options.count),
            seed=options.seed,
            by_command=options.command,
            work=work,
        )
    return 1 if num_faults else 0


def run(name: str, count: int, *, seed: int, by_command: bool, work: Path) -> int:
    """Try the inputs that were not tried yet; returns the number of faults among all of them."""
    work.mkdir(parents=True, exist_ok=True)
    path, by = work / "outcomes.jsonl", "command" if by_command else "function"
    outcomes = stored_outcomes(path, name, seed, by)
    done = {outcome.number for outcome in outcomes}
    waiting = [number for number in range(count) if number not in done]
    if by_command:
        tried = through_the_command(name, waiting, seed=seed, work=work)
    else:
        tried = fuzz(name, KINDS[name], waiting, seed=seed, work=work)
    start = time.monotonic()
    with open(path, "a", encoding="utf-8") as file:
        for outcome in tried:
            row = {"kind": name, "seed": seed, "by": by, **vars(outcome)}
            row["text"] = row["text"] if outcome.what not in FINE[:2] else row["text"][:120]
            file.write(json.dumps(row) + "\n")
            outcomes.append(outcome)
    faults = [outcome for outcome in outcomes if outcome.is_fault]
    counts = Counter(outcome.what for outcome in outcomes)
    slowest = max((outcome.seconds for outcome in outcomes), default=0.0)
    print(
        f"{name} by {by}, seed {seed}: {len(outcomes)} inputs, "
        f"{', '.join(f'{num} {what}' for what, num in sorted(counts.items()))}; "
        f"the slowest took {slowest:.1f} s; this time {time.monotonic() - start:.0f} s"
    )
    by_text: dict[str, list[Outcome]] = {}
    for fault in faults:
        first = (fault.text.strip().splitlines() or [""])[0]
        by_text.setdefault(f"{fault.what}: {first[:150]}", []).append(fault)
    for text, same in sorted(by_text.items(), key=lambda item: -len(item[1])):
        print(f"  {len(same)} x {text} (such as {', '.join(str(f.number) for f in same[:5])})")
    return len(faults)


def repeat(name: str, number: int, *, seed: int, work: Path) -> int:
    """Make one input in build/fuzz/kept, try it, and say what became of it."""
    kind, seeds = KINDS[name], write_seeds(name, KINDS[name], work)
    folder = work / "kept" / f"{name}-{seed}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given = make_input(name, kind, number, seed=seed, seeds=seeds, folder=folder)
    (outcome,) = fuzz(name, kind, [number], seed=seed, work=work)
    print(f"{given}\n{outcome.what} after {outcome.seconds} s: {outcome.text}")
    return int(outcome.is_fault)


if __name__ == "__main__":
    sys.exit(main())
